package magicsock

import (
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock/nodemap"
	"github.com/nodetun/nodetun/relay/relayserver"
	"github.com/nodetun/nodetun/relay/relayserver/relaytest"
)

func everybody(identity.NodeID) bool { return true }

// watchPath returns a Config whose path changes come on the channel.
func watchPath(cfg Config) (Config, <-chan PathChange) {
	changes := make(chan PathChange, 64)
	cfg.OnPathChange = func(p PathChange) {
		select {
		case changes <- p:
		default:
		}
	}
	return cfg, changes
}

func waitPath(t testing.TB, changes <-chan PathChange, want nodemap.ConnType) {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		select {
		case p := <-changes:
			if p.After == want {
				return
			}
		case <-deadline:
			t.Fatalf("no %v path within 10 s", want)
		}
	}
}

func relayConfig(seed byte, relays ...identity.RelayURL) Config {
	cfg := loopbackConfig(seed)
	cfg.Relays = relays
	return cfg
}

// Two nodes that know of each other's relay only talk through it. They are no
// peers, so their private addresses stay private (S11) and the path stays.
func TestRelayOnly(t *testing.T) {
	r := relaytest.Start(t, relayserver.Config{})
	a, b := start(t, relayConfig(1, r.URL)), start(t, relayConfig(2, r.URL))
	if err := a.AddNodeAddr(identity.NodeAddr{ID: b.id, Relay: r.URL}, "test"); err != nil {
		t.Fatal(err)
	}
	p := connect(t, a.PacketConn(), b.PacketConn(), a.MappedAddr(b.id))
	p.transfer(t, 4<<20)
	info, _ := a.Remote(b.id)
	if info.Conn != nodemap.ConnRelay || info.Relay != r.URL {
		t.Errorf("path %v by %v, want the relay", info.Conn, info.Relay)
	}
	if m := b.Metrics(); m.RecvRelay < 4<<20 || m.RecvUDP != 0 {
		t.Errorf("received %d by relay and %d by UDP", m.RecvRelay, m.RecvUDP)
	}
}

// Peers meet at the relay, tell each other their addresses and leave it.
func TestRelayUpgradesToDirect(t *testing.T) {
	r := relaytest.Start(t, relayserver.Config{})
	ca, changes := watchPath(relayConfig(1, r.URL))
	cb := relayConfig(2, r.URL)
	ca.Paired, cb.Paired = everybody, everybody
	a, b := start(t, ca), start(t, cb)
	if err := a.AddNodeAddr(identity.NodeAddr{ID: b.id, Relay: r.URL}, "test"); err != nil {
		t.Fatal(err)
	}
	p := connect(t, a.PacketConn(), b.PacketConn(), a.MappedAddr(b.id))
	waitPath(t, changes, nodemap.ConnDirect)
	before := b.Metrics().RecvRelay
	p.transfer(t, 16<<20)
	if info, _ := a.Remote(b.id); info.Conn != nodemap.ConnDirect {
		t.Errorf("path %v, want direct", info.Conn)
	}
	if m := b.Metrics(); m.RecvRelay-before > 1<<20 {
		t.Errorf("%d bytes still came by relay", m.RecvRelay-before)
	}
}

// startLossy is start with a switch that loses all that is sent by UDP.
func startLossy(t testing.TB, cfg Config) (*testNode, *atomic.Bool) {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	lose := new(atomic.Bool)
	c.write = func(b []byte, seg int, ecn uint8, to netip.AddrPort) error {
		if lose.Load() {
			return nil
		}
		return c.writeSocket(b, seg, ecn, to)
	}
	return run(t, c), lose
}

// The direct path dies without a word: packets go by the relay, and the
// connection lives on.
func TestDirectFallsBackToRelay(t *testing.T) {
	r := relaytest.Start(t, relayserver.Config{})
	ca, changes := watchPath(relayConfig(1, r.URL))
	cb := relayConfig(2, r.URL)
	ca.Paired, cb.Paired = everybody, everybody
	a, dropA := startLossy(t, ca)
	b, dropB := startLossy(t, cb)
	addr := b.direct()
	addr.Relay = r.URL
	if err := a.AddNodeAddr(addr, "test"); err != nil {
		t.Fatal(err)
	}
	p := connect(t, a.PacketConn(), b.PacketConn(), a.MappedAddr(b.id))
	p.transfer(t, 1<<20)
	waitPath(t, changes, nodemap.ConnDirect)
	dropA.Store(true)
	dropB.Store(true)
	began := time.Now()
	p.transfer(t, 1<<20)
	t.Logf("a transfer across the loss of the direct path took %v", time.Since(began).Round(time.Millisecond))
	waitPath(t, changes, nodemap.ConnRelay)
	dropA.Store(false)
	dropB.Store(false)
	waitPath(t, changes, nodemap.ConnDirect)
	p.transfer(t, 1<<20)
}
