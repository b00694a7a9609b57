package engine

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/nodetun/nodetun/endpoint"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/packet"
	"github.com/nodetun/nodetun/internal/rules"
)

// connected makes two nodes with a session and returns a's entry of b.
func connected(t *testing.T, allow ...string) (a, b *node, p *peer) {
	t.Helper()
	a, b = meet(t, allow...)
	p = a.engine.peer(b.id)
	if _, err := p.connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	return a, b, p
}

// S16: a connection of a peer that was still saying hello when the peer was
// forgotten does not come up, and none is dialled.
func TestForgottenWhileConnecting(t *testing.T) {
	a, _, p := connected(t, "all")
	late, err := p.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a.engine.SetPeers(nil)
	p.adopt(late)
	if !late.ended() {
		t.Error("the connection of a forgotten peer came up")
	}
	await(t, "no session with a forgotten peer", func() bool { return len(p.live()) == 0 })
	if attempt, _ := p.dialInBackground(); attempt.err != errDenied {
		t.Errorf("a forgotten peer is dialled: %v", attempt.err)
	}
}

// S16: a flow that was judged under rules which changed before it was
// registered is judged again.
func TestRuleTakenAwayWhileConnecting(t *testing.T) {
	_, b, _ := connected(t, "tcp/7 icmp")
	var p *peer
	for _, p = range *b.engine.peers.Load() {
	}
	f := newFlow(p, true, echoPort, func() {})
	icmp, _ := rules.Parse([]string{"icmp"})
	p.configure(Peer{ID: p.id, Rules: icmp})
	if p.addFlow(f) {
		t.Error("the flow began under rules that are gone")
	}
}

// A packet that finds no session, and comes too late for those that waited for
// the one that now is up, goes out at once.
func TestPacketQueuedTooLate(t *testing.T) {
	a, b, p := connected(t, "udp/53")
	src, dst := ends(t, a, b, false, 5000, 53)
	p.enqueue(udpPacket(src, dst, "late"))
	b.host.next(t)
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) != 0 {
		t.Error("the packet waits")
	}
}

// Nothing begins once the engine ends, or Run would not wait for it.
func TestNothingBeginsAfterRun(t *testing.T) {
	a, b, p := connected(t, "all")
	late, err := p.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a.stop()
	if a.engine.spawn(func() {}) {
		t.Error("a goroutine began")
	}
	p.adopt(late)
	if !late.ended() || len(p.live()) != 0 {
		t.Error("a session came up")
	}
	a.engine.SetPeers([]Peer{{ID: identity.GenerateSecretKey().NodeID(), Rules: rules.Default(), Addr: b.addr()}})
	if _, err := p.connect(context.Background()); err == nil {
		t.Error("a dial succeeded")
	}
}

// A dial that fails after the peer has connected by itself says nothing.
func TestFailedDialBesideSession(t *testing.T) {
	a, _, p := connected(t, "all")
	p.dialFailed(context.DeadlineExceeded)
	if s := a.state(); s.State != StateConnected || s.LastError != "" {
		t.Errorf("%+v", s)
	}
}

// A packet that the peer cannot take is answered with the size that it can.
func TestPacketTooBig(t *testing.T) {
	a, b, p := connected(t, "udp/53")
	for _, tc := range []struct {
		name string
		peer int // MTU of the peer
		size int
		want uint32
	}{
		{"above our own", 9000, 1500, DefaultMTU},
		{"above the peer's", 1280, 1400, 1280},
		{"above a peer's that is absurd", 3, 1400, minMTU},
	} {
		for _, v4 := range []bool{false, true} {
			t.Run(tc.name, func(t *testing.T) {
				p.current.Load().mtu = tc.peer
				src, dst := ends(t, a, b, v4, 5000, 53)
				a.host.send(t, udpPacket(src, dst, string(make([]byte, tc.size-48))))
				ip := a.host.next(t)
				i, err := packet.Parse(ip)
				if err != nil || !packet.IsICMPError(i) {
					t.Fatalf("%+v, %v", i, err)
				}
				if got := uint32(ip[i.L4+6])<<8 | uint32(ip[i.L4+7]); got != tc.want {
					t.Errorf("MTU %d, want %d", got, tc.want)
				}
			})
		}
	}
}

// Whoever finds a new peer finds it with its rules: one that calls at that very
// moment is not told that it is denied.
func TestNewPeersAreNeverDenied(t *testing.T) {
	n := startNode(t, nil, nil, testPool)
	ids := make([]identity.NodeID, 500)
	for i := range ids {
		ids[i] = identity.GenerateSecretKey().NodeID()
	}
	all, err := rules.Parse([]string{"all"})
	if err != nil {
		t.Fatal(err)
	}
	var looker sync.WaitGroup
	added := make(chan struct{})
	looker.Go(func() {
		for {
			select {
			case <-added:
				return
			default:
			}
			for _, p := range *n.engine.peers.Load() {
				if !p.allowed() {
					t.Errorf("%s is denied", p.id)
					return
				}
			}
		}
	})
	for i := range ids {
		list := []Peer{}
		for _, id := range ids[:i+1] {
			list = append(list, Peer{ID: id, Rules: all})
		}
		n.engine.SetPeers(list)
	}
	close(added)
	looker.Wait()
}

// An engine whose endpoint has ended does not go on as if nothing were.
func TestRunEndsWithTheEndpoint(t *testing.T) {
	n, _, _ := connected(t, "all")
	n.end.Close(0, "")
	if err := n.wait(); err == nil || !errors.Is(err, endpoint.ErrClosed) {
		t.Errorf("Run: %v", err)
	}
}
