package endpoint

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/nodetun/nodetun/identity"
)

func nodes(t *testing.T, n int) []identity.NodeID {
	t.Helper()
	list := make([]identity.NodeID, n)
	for i := range list {
		list[i] = identity.GenerateSecretKey().NodeID()
	}
	return list
}

// S6: handshakes that others begin are few, of a node and in all, and from a third of a
// node on it has to prove where it is.
func TestHandshakesAreCounted(t *testing.T) {
	var h handshakes
	now := time.Now()
	ids := nodes(t, maxPending/maxPendingNode+1)
	var ends []func()
	for i, id := range ids[:len(ids)-1] {
		for j := range maxPendingNode {
			if got, want := h.doubted(id, now), i*maxPendingNode+j >= retryPending || j >= retryPendingNode; got != want {
				t.Fatalf("handshake %d of node %d: a proof is wanted: %v", j, i, got)
			}
			end, err := h.begin(id, false, true, now)
			if err != nil {
				t.Fatalf("handshake %d of node %d: %v", j, i, err)
			}
			ends = append(ends, end)
		}
		if i == 0 {
			if _, err := h.begin(id, false, true, now); !errors.Is(err, errTooManyHandshakes) {
				t.Errorf("one too many of a node: %v", err)
			}
		}
	}
	last := ids[len(ids)-1]
	if _, err := h.begin(last, false, true, now); !errors.Is(err, errTooManyHandshakes) {
		t.Errorf("one too many in all: %v", err)
	}
	ends[0]()
	ends[0]()
	if _, err := h.begin(last, false, true, now); err != nil {
		t.Errorf("refused although one came up: %v", err)
	}
	if _, err := h.begin(last, false, true, now); !errors.Is(err, errTooManyHandshakes) {
		t.Errorf("an end counted twice: %v", err)
	}
}

// S6: a node that begins again and again is slowed down, one that is denied hears so once
// a minute, and who forges its address uses up only what needs no proof.
func TestHandshakesArePaced(t *testing.T) {
	ids := nodes(t, 2)
	for name, tc := range map[string]struct {
		denied, proven bool
		most           int // within ten minutes, asked each 100 ms
	}{
		"proven": {false, true, handshakeBurst + 600}, "denied": {true, true, 10}, "forged": {false, false, handshakeBurst + 600},
	} {
		h := handshakes{paced: true}
		began, taken := time.Now(), 0
		for now := began; now.Sub(began) < 10*time.Minute; now = now.Add(100 * time.Millisecond) {
			if !tc.proven && h.doubted(ids[0], now) {
				continue
			}
			if end, err := h.begin(ids[0], tc.denied, tc.proven, now); err == nil {
				taken++
				end()
			}
		}
		if taken > tc.most || taken < tc.most-2 {
			t.Errorf("%s: %d handshakes in ten minutes, want %d", name, taken, tc.most)
		}
		for _, id := range ids {
			if _, err := h.begin(id, false, true, began.Add(10*time.Minute+deniedGap)); err != nil {
				t.Errorf("%s: a node that proves where it is has to wait: %v", name, err)
			}
		}
	}
}

// What is kept of nodes that are gone does not grow.
func TestHandshakesForget(t *testing.T) {
	var h handshakes
	now := time.Now()
	for _, id := range nodes(t, 3*firstHandshakeSweep) {
		now = now.Add(time.Second)
		end, err := h.begin(id, false, true, now)
		if err != nil {
			t.Fatal(err)
		}
		end()
	}
	if len(h.nodes) > firstHandshakeSweep {
		t.Errorf("%d nodes are remembered", len(h.nodes))
	}
}

// S6: a node that begins connections without end, and goes on with none, has four here at a
// time, and nobody else waits.
func TestHandshakeFlood(t *testing.T) {
	victim, eve, bob := start(t, loopback()), start(t, loopback()), start(t, loopback())
	serveEcho(victim)
	ctx, stop := context.WithCancel(t.Context())
	if err := eve.socket.AddNodeAddr(victim.addr(), "test"); err != nil {
		t.Fatal(err)
	}
	conf, err := tlsConfig(eve.cfg.Socket.Key, []string{testALPN}, victim.NodeID(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var flood sync.WaitGroup
	for range 16 {
		flood.Go(func() {
			for ctx.Err() == nil {
				short, cancel := context.WithTimeout(ctx, 3*time.Millisecond)
				if conn, err := eve.transport.Dial(short, eve.socket.MappedAddr(victim.NodeID()), conf, eve.quicConfig(false)); err == nil {
					_ = conn.CloseWithError(0, "")
				}
				cancel()
			}
		})
	}
	defer flood.Wait()
	defer stop()
	most := 0
	look := func() {
		victim.pending.mu.Lock()
		defer victim.pending.mu.Unlock()
		if b := victim.pending.nodes[eve.NodeID()]; b != nil {
			most = max(most, b.pending)
		}
	}
	for tick := time.NewTicker(time.Millisecond); most < maxPendingNode; {
		select {
		case <-tick.C:
		case <-withTimeout(t).Done():
			t.Fatal("the flood does not reach the limit")
		}
		look()
	}
	for range 20 {
		c, err := bob.Connect(withTimeout(t), victim.addr(), testALPN)
		if err != nil {
			t.Fatal(err)
		}
		c.Close(0, "")
		look()
	}
	if most > maxPendingNode {
		t.Errorf("%d handshakes at a time", most)
	}
}
