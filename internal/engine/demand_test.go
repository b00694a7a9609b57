package engine

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodetun/nodetun/discovery"
	"github.com/nodetun/nodetun/endpoint"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/packet"
	"github.com/nodetun/nodetun/internal/rules"
	"github.com/nodetun/nodetun/netstack"
)

// book is a Resolver that knows nodes of this process.
type book struct {
	asked atomic.Int64
	nodes map[identity.NodeID]*node
}

func (b *book) Resolve(_ context.Context, id identity.NodeID, found func(discovery.Item)) error {
	b.asked.Add(1)
	if n := b.nodes[id]; n != nil {
		addr := n.end.NodeAddr()
		found(discovery.Item{Addr: addr, Source: "book"})
	}
	return nil
}

// startOnDemand makes a node that dials nodes which are no peers, and finds those of the book.
func startOnDemand(t *testing.T, policy OnDemand, b *book) *node {
	t.Helper()
	return startNodeWith(t, nil, nil, testPool, func(e *endpoint.Config, c *Config) { e.Resolver, c.OnDemand = b, policy })
}

// S19: a node that is no peer is dialled for ssh and ping alone, or for everything if the
// settings say so; it reaches nothing here.
func TestOnDemand(t *testing.T) {
	for _, tc := range []struct {
		name   string
		policy OnDemand
		code   uint8 // of the ICMPv6 error for UDP; 255: none, it passes
	}{{"off", OnDemandOff, 0}, {"ssh", OnDemandSSH, 1}, {"any", OnDemandAny, 255}} {
		t.Run(tc.name, func(t *testing.T) {
			b := startNode(t, nil, nil, testPool)
			a := startOnDemand(t, tc.policy, &book{nodes: map[identity.NodeID]*node{b.id: b}})
			b.know(t, a, "all")
			if _, err := a.table.AddOnDemand(b.id, time.Now()); err != nil {
				t.Fatal(err)
			}
			src, dst := ends(t, a, b, false, 5000, 53)
			a.host.send(t, udpPacket(src, dst, "question"))
			if tc.code != 255 {
				reply := a.host.next(t)
				if i, err := packet.Parse(reply); err != nil || i.ICMPType != 1 || i.ICMPCode != tc.code {
					t.Errorf("answered by %+v, %v", i, err)
				}
			} else if got := b.host.next(t); !bytes.HasSuffix(got, []byte("question")) {
				t.Errorf("arrived as %x", got)
			}
			if tc.policy == OnDemandOff {
				if a.engine.Admit(b.id) {
					t.Error("it is admitted")
				}
				return
			}
			if _, err := a.dial(t, b, sshPort, false); !errors.Is(err, netstack.ErrRefused) { // nobody listens there
				t.Errorf("tcp/22: %v", err)
			}
			// The other way round: it is admitted because it was dialled, and that is all.
			if _, err := b.dial(t, a, echoPort, false); !errors.Is(err, netstack.ErrRefused) {
				t.Errorf("it reaches this host: %v", err)
			}
			if a.engine.Paired(b.id) || !a.engine.Admit(b.id) || !a.state().OnDemand {
				t.Error("it is taken for a peer, or not admitted")
			}
			// What the user says counts: a peer with rules, then one that is denied.
			a.know(t, b, "all")
			if !a.engine.Paired(b.id) || a.state().OnDemand {
				t.Error("it is no peer")
			}
			if _, err := b.dial(t, a, echoPort, false); err != nil {
				t.Errorf("a peer that everything is allowed: %v", err)
			}
			a.engine.SetPeers([]Peer{{ID: b.id}})
			if _, err := a.dial(t, b, sshPort, false); err == nil || a.state().State != StateRefused {
				t.Errorf("denied: %v, %v", err, a.state().State)
			}
		})
	}
}

// A node on demand that dials by itself is refused: it is no peer.
func TestOnDemandMayNotDial(t *testing.T) {
	b := startNode(t, nil, nil, testPool)
	a := startOnDemand(t, OnDemandSSH, &book{})
	a.engine.addOnDemand(b.id, time.Now())
	b.know(t, a, "all")
	await(t, "b is refused", func() bool { return b.state().State == StateRefused })
}

// One more is dialled a second, eight are at a time, 64 are known (S19).
func TestOnDemandIsBounded(t *testing.T) {
	a := startOnDemand(t, OnDemandAny, &book{})
	now := time.Now()
	add := func() *peer {
		now = now.Add(demandGap)
		return a.engine.addOnDemand(identity.GenerateSecretKey().NodeID(), now)
	}
	for turn := range 3 { // at one time
		p := a.engine.addOnDemand(identity.GenerateSecretKey().NodeID(), now)
		if p == nil || p.pauseLocked(now) != time.Duration(turn)*demandGap {
			t.Fatalf("%+v", p)
		}
	}
	now = now.Add(3 * demandGap)
	for range 2 * maxDemand {
		if p := add(); p == nil {
			t.Fatal("no room is made")
		} else {
			p.used.Store(now.UnixNano())
		}
	}
	if n := len(*a.engine.peers.Load()); n != maxDemand {
		t.Errorf("%d are known", n)
	}
	var dialled []*peer
	for _, p := range *a.engine.peers.Load() {
		if len(dialled) < maxDemandDials {
			p.mu.Lock()
			p.attempt = &attempt{cancel: func() {}}
			p.mu.Unlock()
			dialled = append(dialled, p)
		}
	}
	if add() != nil {
		t.Error("a ninth is dialled")
	}
	for _, p := range dialled {
		p.mu.Lock()
		p.attempt = nil
		p.mu.Unlock()
	}
	if add() == nil {
		t.Error("none is taken any more")
	}
}

// Packets to a peer that nobody knows the place of ask discovery a few times, not once for
// each packet.
func TestDialsPause(t *testing.T) {
	b := &book{}
	a := startOnDemand(t, OnDemandOff, b)
	lost := identity.GenerateSecretKey().NodeID()
	if _, err := a.table.Add(lost); err != nil {
		t.Fatal(err)
	}
	a.engine.SetPeers([]Peer{{ID: lost, Rules: rules.Default()}})
	p := a.engine.peer(lost)
	began := time.Now()
	for time.Since(began) < 1500*time.Millisecond {
		p.enqueue(bytes.Repeat([]byte{0x60}, 40))
		time.Sleep(time.Millisecond)
	}
	asked, took := b.asked.Load(), time.Since(began)
	var most int64 = 1
	for at, pause := endpoint.FirstPause, endpoint.FirstPause; at <= took; at += pause {
		most++
		pause = min(2*pause, endpoint.MaxPause)
	}
	if asked < 1 || asked > most {
		t.Errorf("asked %d times in %v, want at most %d", asked, took, most)
	}
}
