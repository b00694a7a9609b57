package natlab_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/natlab"
	"github.com/nodetun/nodetun/magicsock"
	"github.com/nodetun/nodetun/magicsock/nodemap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a running Conn that echoes what it is sent.
type node struct {
	*magicsock.Conn
	t    *testing.T
	host *natlab.Host
	id   identity.NodeID
	peer atomic.Pointer[node] // nil before both run

	mu  sync.Mutex // guards the fields below
	got time.Time  // when the last echo came
	gap time.Duration
}

// world is an internet with two relays and two nodes that know each other by their
// relay.
type world struct {
	*natlab.Lab
	t      *testing.T
	relays []*natlab.Relay
	a, b   *node
}

// bubble runs f in a world with a clock of its own.
func bubble(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{Lab: natlab.New(t), t: t}
		w.relays = []*natlab.Relay{w.Relay(), w.Relay()}
		f(t, w)
	})
}

// start runs a node on each host, lets them look around and introduces them.
func (w *world) start(a, b *natlab.Host) {
	w.t.Helper()
	w.a, w.b = w.node(a), w.node(b)
	w.a.peer.Store(w.b)
	w.b.peer.Store(w.a)
	time.Sleep(10 * time.Second)
	for _, n := range []*node{w.a, w.b} {
		if err := n.AddNodeAddr(identity.NodeAddr{ID: n.peer.Load().id, Relay: n.peer.Load().HomeRelay()}, string(nodemap.SourceApp)); err != nil {
			w.t.Fatal(err)
		}
	}
	w.a.tell()
	w.b.tell()
}

func (w *world) node(h *natlab.Host) *node {
	w.t.Helper()
	key := identity.GenerateSecretKey()
	n := &node{t: w.t, host: h, id: key.NodeID()}
	var urls []identity.RelayURL
	for _, r := range w.relays {
		urls = append(urls, r.URL)
	}
	var log *slog.Logger
	if os.Getenv("NODETUN_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("self", n.id.Short())
	}
	c, err := magicsock.New(magicsock.Config{
		Logger: log, Key: key, Relays: urls, Underlay: h.Underlay(),
		Admit:  func(identity.NodeID) bool { return true },
		Paired: func(identity.NodeID) bool { return true },
		// The engine tells facts over QUIC, which is not there.
		OnNetInfo: func() { n.tell() },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	n.Conn = c
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- c.Run(ctx) }()
	go func() { done <- n.echo() }()
	w.t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				w.t.Error(err)
			}
		}
	})
	return n
}

// tell makes known to the peer what the engine would.
func (n *node) tell() {
	peer := n.peer.Load()
	if peer == nil {
		return
	}
	info := n.NetInfo()
	nat := nodemap.NAT{Hard: info.NAT == "hard", Easy: info.NAT == "easy" || info.NAT == "none"}
	if r := info.Report; r != nil {
		nat.Step = r.PortDelta
		for _, a := range []netip.AddrPort{r.GlobalV4, r.GlobalV6} {
			if a.IsValid() {
				nat.Public = append(nat.Public, a)
			}
		}
	}
	peer.SetPeerNAT(n.id, nat)
}

// Payload looks like a short QUIC packet; the second byte says what it is.
const (
	short    = 0x40
	question = 1
	reply    = 2
)

// echo answers questions and notes answers until the Conn is closed.
func (n *node) echo() error {
	b := make([]byte, 2048)
	for {
		k, from, err := n.PacketConn().ReadFrom(b)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		switch {
		case k < 2 || b[0] != short:
		case b[1] == question:
			b[1] = reply
			if _, err := n.PacketConn().WriteTo(b[:k], from); err != nil && !errors.Is(err, net.ErrClosed) {
				return err
			}
		case b[1] == reply:
			n.note()
		}
	}
}

func (n *node) note() {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	n.gap = max(n.gap, now.Sub(n.got))
	n.got = now
}

// beat is how often talk asks.
const beat = 100 * time.Millisecond

// talk asks the peer every 100 ms for d, or until stop says so, and returns how
// long it took.
func (n *node) talk(d time.Duration, stop func() bool) time.Duration {
	n.t.Helper()
	begin := time.Now()
	b := make([]byte, 1000)
	b[0], b[1] = short, question
	for time.Since(begin) < d {
		if _, err := n.PacketConn().WriteTo(b, n.MappedAddr(n.peer.Load().id)); err != nil {
			n.t.Fatal(err)
		}
		time.Sleep(beat)
		if stop() {
			break
		}
	}
	return time.Since(begin)
}

// forget makes heard begin anew.
func (n *node) forget() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.got, n.gap = time.Now(), 0
}

// heard returns whether an echo came since forget, and the longest time without.
func (n *node) heard() (any bool, gap time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.gap > 0, max(n.gap, time.Since(n.got))
}

// path is the kind of path to the peer.
func (n *node) path() nodemap.ConnType {
	r, _ := n.Remote(n.peer.Load().id)
	return r.Conn
}

// direct says that both sides use a direct path.
func (w *world) direct() bool {
	return w.a.path() == nodemap.ConnDirect && w.b.path() == nodemap.ConnDirect
}

// never lets talk go on.
func never() bool { return false }

// Bounds of the issue: with a relay known, the first reply and a direct path.
const (
	replyWithin  = time.Second
	directWithin = 3 * time.Second
)

// meet has the nodes talk until the path is direct, at most a while, and returns
// how long that took and whether it is.
func (w *world) meet() (time.Duration, bool) {
	w.t.Helper()
	w.a.forget()
	took := w.a.talk(12*time.Second, func() bool {
		answered, _ := w.a.heard()
		return answered && w.direct()
	})
	return took, w.direct()
}
