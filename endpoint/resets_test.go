package endpoint

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock/udpconn"
)

// The salt of tests: kept over a restart.
var testSalt = randomBytes(32)

// A node that restarted draws a reset, so that the other side learns within a
// round trip and not after hours (S4).
func TestStatelessReset(t *testing.T) {
	for _, tc := range []struct {
		name   string
		before []byte
		after  []byte
		reset  bool
	}{
		{"same salt", testSalt, testSalt, true},
		{"another salt", testSalt, randomBytes(32), false},
		{"no salt", nil, nil, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			session := []string{testALPN}
			cfgA, cfgB := loopback(), loopback()
			cfgA.SessionALPNs, cfgB.SessionALPNs = session, session
			cfgB.ResetSalt = tc.before
			a, b := start(t, cfgA), start(t, cfgB)
			dialled, _ := connect(t, a, b)

			crash(b)
			v4, v6 := b.LocalAddrs()
			cfgB.ResetSalt = tc.after
			cfgB.Socket.Bind4, cfgB.Socket.Bind6 = v4, v6
			again := start(t, cfgB)
			if err := again.Socket().AddNodeAddr(a.addr(), "saved"); err != nil {
				t.Fatal(err)
			}
			again.Socket().Ping(a.NodeID())

			end := time.After(time.Minute)
			if !tc.reset {
				end = time.After(time.Second)
			}
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-dialled.Context().Done():
					if got, _ := Cause(dialled.CloseCause()); got.Kind != Reset || !tc.reset {
						t.Errorf("ended: %+v", got)
					}
					return
				case <-end:
					if tc.reset {
						t.Error("no reset")
					}
					return
				case <-tick.C:
					_ = dialled.SendDatagram([]byte("are you there"))
				}
			}
		})
	}
}

// crash ends an endpoint without telling anybody.
func crash(n *node) {
	n.mu.Lock()
	clear(n.conns)
	n.mu.Unlock()
	n.listener.Close()
	_ = n.transport.Close()
	n.stop()
}

// S4: a node that sends rubbish draws at most ten resets a second.
func TestResetRate(t *testing.T) {
	cfg := loopback()
	cfg.ResetSalt = testSalt
	a, b := start(t, loopback()), start(t, cfg)
	connect(t, a, b)

	to := a.Socket().MappedAddr(b.NodeID())
	until := withTimeout(t)
	begin := time.Now()
	for b.resets.dropped.Load() < 20 && until.Err() == nil {
		rubbish := randomBytes(100)
		rubbish[0] = 0x41
		if _, err := a.Socket().PacketConn().WriteTo(rubbish, to); err != nil {
			t.Fatal(err)
		}
	}
	seconds := uint64(time.Since(begin)/time.Second) + 2
	sent, dropped := b.resets.sent.Load(), b.resets.dropped.Load()
	if sent == 0 || sent > seconds*resetsPerSecond || dropped < 20 {
		t.Errorf("%d resets sent, %d dropped in %v", sent, dropped, time.Since(begin))
	}
}

// S4: a stranger, whose address is that of no node, draws nothing at all.
func TestResetNotToStrangers(t *testing.T) {
	cfg := loopback()
	cfg.ResetSalt = testSalt
	cfg.Socket.Admit = func(identity.NodeID) bool { return false }
	b := start(t, cfg)
	v4, _ := b.LocalAddrs()
	c := listenLoopback(t)
	for range 100 {
		rubbish := randomBytes(100)
		rubbish[0] = 0x41
		if _, err := c.WriteToUDPAddrPort(rubbish, v4); err != nil {
			t.Fatal(err)
		}
	}
	for b.Socket().Metrics().UnknownSource < 100 {
		if withTimeout(t).Err() != nil {
			t.Fatal("the packets did not arrive")
		}
	}
	if sent, dropped := b.resets.sent.Load(), b.resets.dropped.Load(); sent+dropped != 0 {
		t.Errorf("%d resets", sent+dropped)
	}
}

func listenLoopback(t testing.TB) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// S4: a node has several mapped addresses, and resets to all of them count.
func TestResetRateOfNode(t *testing.T) {
	a, b := start(t, loopback()), start(t, loopback())
	g := &resetGuard{PacketConn: a.Socket().PacketConn()}
	first := a.Socket().MappedAddr(b.NodeID())
	for port := range 4 {
		to := *first
		to.Port += port
		if id, ok := a.Socket().NodeOf(&to); !ok || id != b.NodeID() {
			t.Fatalf("%v is %v", &to, id)
		}
		for range resetsPerSecond {
			reset := randomBytes(resetLen)
			reset[0] = 0x41
			if _, _, err := g.WriteMsgUDP(reset, nil, &to); err != nil {
				t.Fatal(err)
			}
		}
	}
	if sent := g.sent.Load(); sent > 2*resetsPerSecond { // a second may end meanwhile
		t.Errorf("%d resets sent at once", sent)
	}
}

// S4: resets are limited for a node without segmentation offload too, once ECN tells them apart.
func TestResetRateOfPlainNode(t *testing.T) {
	a, b := start(t, loopback()), start(t, loopback())
	g := &resetGuard{PacketConn: a.Socket().PacketConn()}
	to := a.Socket().MappedAddr(b.NodeID())
	g.plain.add(to.AddrPort().Addr(), 1)
	resets := func() uint64 {
		for range 10 * resetsPerSecond {
			reset := randomBytes(resetLen)
			reset[0] = 0x41
			if _, _, err := g.WriteMsgUDP(reset, nil, to); err != nil {
				t.Fatal(err)
			}
		}
		return g.dropped.Load()
	}
	if n := resets(); n != 0 {
		t.Fatalf("%d packets dropped that may be a connection's", n)
	}
	if _, _, err := g.WriteMsgUDP(randomBytes(100), udpconn.AppendTOS(nil, 2, true), to); err != nil {
		t.Fatal(err)
	}
	if n := resets(); n < 8*resetsPerSecond { // a second may end meanwhile
		t.Errorf("%d of %d resets dropped", n, 10*resetsPerSecond)
	}
}

func TestResetRateBounded(t *testing.T) {
	var r resetRate
	now := time.Unix(100, 0)
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }
	for i := range 2 * resetNodes {
		if got, want := r.allow(now, addr(i)), i < resetNodes; got != want {
			t.Fatalf("node %d: %v", i, got)
		}
	}
	if len(r.counts) > resetNodes {
		t.Errorf("%d counts kept", len(r.counts))
	}
	for i := range 20 {
		if got, want := r.allow(now, addr(0)), i < resetsPerSecond-1; got != want {
			t.Fatalf("reset %d: %v", i, got)
		}
	}
	if !r.allow(now.Add(time.Second), addr(0)) {
		t.Error("refused in the next second")
	}
}

// The limit is off for a node as long as it has a connection without segmentation
// offload, and for no other.
func TestPlainNodes(t *testing.T) {
	var p plainNodes
	one, other := netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
	p.add(one, 1)
	p.add(one, 1)
	p.add(one, -1)
	if !p.has(one) || p.has(other) {
		t.Errorf("one %v, other %v", p.has(one), p.has(other))
	}
	p.add(one, -1)
	if p.has(one) || len(p.conns) != 0 {
		t.Error("the connections are over")
	}
}

// A caller's OnRevived is told beside the endpoint's own use of it.
func TestCallersOnRevivedIsTold(t *testing.T) {
	cfg := loopback()
	var told identity.NodeID
	cfg.Socket.OnRevived = func(id identity.NodeID) { told = id }
	e := start(t, cfg)
	id := identity.GenerateSecretKey().NodeID()
	e.cfg.Socket.OnRevived(id)
	if told != id {
		t.Errorf("told of %v", told)
	}
}
