package nodemap

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

const (
	tick20 = 20 * time.Millisecond
	addrA  = "192.0.2.1:41820"
	addrB  = "198.51.100.2:41820"
)

// pair returns two nodes that know each other.
func pair(t *testing.T, relay bool) (*sim, *simNode, *simNode) {
	s := newSim(t)
	s.relayUp = relay
	a, b := s.node(1, addrA), s.node(2, addrB)
	a.introduce(b, relay, b.local)
	b.introduce(a, relay, a.local)
	return s, a, b
}

func wantConn(t *testing.T, a, b *simNode, want ConnType) {
	t.Helper()
	if got := a.conn(b); got != want {
		t.Fatalf("path is %v, want %v\n%s", got, want, strings.Join(a.changes(), "\n"))
	}
}

func TestScenarioDirectWithoutRelay(t *testing.T) {
	s, a, b := pair(t, false)
	a.stream(b, tick20, time.Second)
	s.run(2 * s.delay)
	wantConn(t, a, b, ConnDirect) // one round trip
	s.run(2 * time.Second)
	wantConn(t, b, a, ConnDirect)
	if len(b.got) != a.numbers {
		t.Fatalf("%d of %d packets arrived", len(b.got), a.numbers)
	}
	r, _ := a.m.Remote(s.now, b.id)
	if r.Addrs[0].Latency != 2*s.delay || r.RTT != 2*s.delay {
		t.Fatalf("latency %v, rtt %v", r.Addrs[0].Latency, r.RTT)
	}
}

// After a network change a lost ping is made up for within a second or so, though payload of the
// node goes on arriving all the time.
func TestScenarioNetworkChangeLosesPing(t *testing.T) {
	s, a, b := pair(t, false)
	a.payload, b.payload = 500, 500
	a.stream(b, tick20, time.Minute)
	b.stream(a, tick20, time.Minute)
	lose := false
	s.drop = func(from, to netip.AddrPort, size int) bool {
		lost := lose && from == a.local && size >= 1200
		lose = lose && !lost
		return lost
	}
	for range 10 { // at another time between two pings of b
		s.run(5*time.Second - 300*time.Millisecond)
		wantConn(t, a, b, ConnDirect)
		lose = true
		a.do(a.m.NetworkChanged(s.now))
		s.run(1300 * time.Millisecond)
		wantConn(t, a, b, ConnDirect)
		if lose {
			t.Error("no ping was lost")
		}
	}
}

func TestScenarioAnswererKnowsNoAddress(t *testing.T) {
	s := newSim(t)
	a, b := s.node(1, addrA), s.node(2, addrB)
	a.introduce(b, false, b.local)
	a.stream(b, tick20, time.Second)
	s.run(200 * time.Millisecond)
	wantConn(t, a, b, ConnDirect)
	wantConn(t, b, a, ConnDirect)
}

func TestScenarioRelayToDirectThroughNATs(t *testing.T) {
	s := newSim(t)
	s.relayUp = true
	a, b := s.node(1, addrA), s.node(2, addrB)
	a.nat, b.nat = true, true
	a.introduce(b, true) // relay only
	a.stream(b, tick20, 3*time.Second)
	s.run(50 * time.Millisecond)
	wantConn(t, a, b, ConnRelay)
	s.run(2 * time.Second)
	wantConn(t, a, b, ConnDirect)
	wantConn(t, b, a, ConnDirect)
	if len(b.got) < a.numbers-3 {
		t.Fatalf("%d of %d packets arrived", len(b.got), a.numbers)
	}
}

func TestScenarioDirectDiesRelayTakesOver(t *testing.T) {
	for _, at := range []time.Duration{0, 300, 900, 1500, 2100, 2700, 2990} {
		s, a, b := pair(t, true)
		a.stream(b, tick20, 30*time.Second)
		s.run(10*time.Second + at*time.Millisecond)
		wantConn(t, a, b, ConnDirect)
		died := s.now
		s.drop = func(_, _ netip.AddrPort, _ int) bool { return true }
		s.run(time.Second)
		wantConn(t, a, b, ConnMixed)
		s.run(2*time.Second + 50*time.Millisecond)
		wantConn(t, a, b, ConnRelay)
		wantConn(t, b, a, ConnRelay)
		s.run(3 * time.Second)
		if g := b.gap(died, s.now); g > time.Second {
			t.Errorf("died at +%v: gap of %v\n%s", at, g, strings.Join(a.changes(), "\n"))
		}
		healed := s.now
		s.drop = nil
		s.run(10 * time.Second)
		wantConn(t, a, b, ConnDirect)
		wantConn(t, b, a, ConnDirect)
		for i, act := range a.log {
			if act.Kind == PathChanged && act.After == ConnDirect && a.logAt[i].After(healed) && a.logAt[i].Sub(healed) > 6*time.Second {
				t.Errorf("direct only after %v", a.logAt[i].Sub(healed))
			}
		}
		s.run(5 * time.Second)
		if g := b.gap(died, s.now.Add(-6*time.Second)); g > time.Second {
			t.Errorf("gap of %v", g)
		}
	}
}

// Nothing of the outage is lost when packets are rare: the last ones are sent
// again on the relay as soon as the direct address is in doubt.
func TestScenarioDirectDiesUnderRarePackets(t *testing.T) {
	s, a, b := pair(t, true)
	a.stream(b, 400*time.Millisecond, 40*time.Second)
	s.run(10 * time.Second)
	wantConn(t, a, b, ConnDirect)
	s.drop = func(_, _ netip.AddrPort, _ int) bool { return true }
	s.run(25 * time.Second)
	for i := 1; i < a.numbers-3; i++ {
		if _, ok := b.got[i]; !ok {
			t.Errorf("packet %d, sent at %v, is lost", i, a.sentAt[i].Sub(epoch))
		} else if d := b.got[i].Sub(a.sentAt[i]); d > 1200*time.Millisecond {
			t.Errorf("packet %d took %v", i, d)
		}
	}
}

func TestScenarioUDPBlockedForLong(t *testing.T) {
	for _, block := range []time.Duration{8 * time.Second, 33 * time.Second, 3 * time.Minute} {
		s := newSim(t)
		s.relayUp = true
		a, b := s.node(1, addrA), s.node(2, addrB)
		a.nat, b.nat = true, true
		a.introduce(b, true)
		s.drop = func(_, _ netip.AddrPort, _ int) bool { return true }
		a.stream(b, 100*time.Millisecond, block+30*time.Second)
		s.run(block)
		wantConn(t, a, b, ConnRelay)
		s.drop = nil
		s.run(10 * time.Second)
		wantConn(t, a, b, ConnDirect)
		wantConn(t, b, a, ConnDirect)
	}
}

func TestScenarioRoaming(t *testing.T) {
	for _, relay := range []bool{false, true} {
		s, a, b := pair(t, relay)
		a.stream(b, tick20, 30*time.Second)
		s.run(5 * time.Second)
		moved := s.now
		b.local = netip.MustParseAddrPort("203.0.113.7:5000")
		b.do(b.m.SetOwnAddrs(s.now, []netip.AddrPort{b.local}, nil))
		b.do(b.m.NetworkChanged(s.now))
		s.run(3 * time.Second)
		if g := b.gap(moved, s.now); g > time.Second {
			t.Errorf("relay %v: gap of %v after the peer moved\n%s", relay, g, strings.Join(a.changes(), "\n"))
		}
		wantConn(t, a, b, ConnDirect)
		moved = s.now
		a.local = netip.MustParseAddrPort("203.0.113.99:6000")
		a.do(a.m.NetworkChanged(s.now))
		s.run(3 * time.Second)
		if g := b.gap(moved, s.now); g > time.Second {
			t.Errorf("relay %v: gap of %v after the sender moved\n%s", relay, g, strings.Join(a.changes(), "\n"))
		}
		wantConn(t, a, b, ConnDirect)
	}
}

// The direct way dies in one direction only; payload in the other direction goes
// on for a while and must not hide it.
func TestScenarioAsymmetricDeath(t *testing.T) {
	for _, dead := range []int{0, 1} {
		s, a, b := pair(t, true)
		a.stream(b, tick20, 30*time.Second)
		b.stream(a, tick20, 30*time.Second)
		s.run(10*time.Second + 40*time.Millisecond)
		died := s.now
		from := []*simNode{a, b}[dead].local
		s.drop = func(f, _ netip.AddrPort, _ int) bool { return f == from }
		s.run(8 * time.Second)
		wantConn(t, a, b, ConnRelay)
		wantConn(t, b, a, ConnRelay)
		for _, n := range []*simNode{a, b} {
			if g := n.gap(died, s.now); g > 2500*time.Millisecond {
				t.Errorf("gap of %v\n%s\n%s", g, strings.Join(a.changes(), "\n"), strings.Join(b.changes(), "\n"))
			}
		}
	}
}

func TestScenarioPathShrinks(t *testing.T) {
	s, a, b := pair(t, true)
	a.stream(b, tick20, 30*time.Second)
	s.run(10 * time.Second)
	died := s.now
	s.drop = func(_, _ netip.AddrPort, size int) bool { return size > 1100 }
	s.run(3100 * time.Millisecond)
	wantConn(t, a, b, ConnRelay)
	if g := b.gap(died, s.now); g > time.Second {
		t.Errorf("gap of %v", g)
	}
	s.run(10 * time.Second)
	wantConn(t, a, b, ConnRelay)
	r, _ := a.m.Remote(s.now, b.id)
	if !r.Addrs[0].Narrow {
		t.Errorf("the address is not known to be narrow: %+v", r.Addrs[0])
	}
}

func TestScenarioNarrowPathWithoutRelay(t *testing.T) {
	s, a, b := pair(t, false)
	s.drop = func(_, _ netip.AddrPort, size int) bool { return size > 1100 }
	a.stream(b, 100*time.Millisecond, 20*time.Second)
	s.run(11 * time.Second)
	r, _ := a.m.Remote(s.now, b.id)
	if !r.Unreachable || r.Cause != CausePathMTU || !strings.Contains(r.LastError, "path MTU") {
		t.Fatalf("unreachable %v, cause %v, %q", r.Unreachable, r.Cause, r.LastError)
	}
}

// Idle peers send nothing from 60 s after the last payload.
func TestScenarioIdleSilence(t *testing.T) {
	for _, relay := range []bool{false, true} {
		for _, fate := range []string{"quiet", "direct dies", "all dies"} {
			s, a, b := pair(t, relay)
			a.stream(b, 100*time.Millisecond, 5*time.Second)
			s.run(5 * time.Second)
			end := s.now
			s.run(20 * time.Second)
			heart := 0
			for _, at := range a.sends {
				if at.After(end) {
					heart++
				}
			}
			if heart == 0 {
				t.Error("no heartbeat")
			}
			if fate != "quiet" {
				s.drop = func(_, _ netip.AddrPort, _ int) bool { return true }
				s.relayUp = s.relayUp && fate != "all dies"
			}
			s.run(10 * time.Minute)
			for _, n := range []*simNode{a, b} {
				if last := n.sends[len(n.sends)-1]; last.Sub(end) > time.Minute {
					t.Errorf("relay %v, %s: a packet left %v after the last payload", relay, fate, last.Sub(end))
				}
				if !n.m.Next().IsZero() {
					t.Errorf("a timer is set: %v", n.m.Next().Sub(s.now))
				}
			}
			r, _ := a.m.Remote(s.now, b.id)
			if r.Conn != ConnNone || r.Active {
				t.Errorf("conn %v, active %v", r.Conn, r.Active)
			}
		}
	}
}

// An idle pair moves, and the next packet goes through although neither side can
// tell the other through a relay.
func TestScenarioRoamingWhileIdle(t *testing.T) {
	s, a, b := pair(t, false)
	a.stream(b, 100*time.Millisecond, time.Second)
	s.run(3 * time.Minute)
	b.local = netip.MustParseAddrPort("203.0.113.7:5000")
	b.do(b.m.NetworkChanged(s.now))
	s.run(10 * time.Second)
	sent := len(b.sends)
	s.run(5 * time.Minute)
	if len(b.sends) != sent {
		t.Error("an idle node goes on sending")
	}
	before := a.numbers
	a.stream(b, 100*time.Millisecond, time.Second)
	s.run(2 * time.Second)
	wantConn(t, a, b, ConnDirect)
	for i := before + 1; i <= a.numbers; i++ {
		if _, ok := b.got[i]; !ok {
			t.Errorf("packet %d is lost", i)
		}
	}
}

func TestScenarioWrongNodeID(t *testing.T) {
	s := newSim(t)
	a := s.node(1, addrA)
	ghost := &simNode{sim: s, id: testID(9), local: netip.MustParseAddrPort("10.0.0.2:41820")}
	a.introduce(ghost, false, ghost.local)
	a.stream(ghost, 500*time.Millisecond, 9500*time.Millisecond)
	s.run(10 * time.Second)
	r, _ := a.m.Remote(s.now, ghost.id)
	if !r.Unreachable || r.Cause != CauseNoAnswer || r.LastError != "no node with this id answers at 10.0.0.2:41820" {
		t.Fatalf("unreachable %v, cause %v, %q", r.Unreachable, r.Cause, r.LastError)
	}
	if !r.LastHeard.IsZero() {
		t.Error("a ghost was heard")
	}
}

// After an outage of everything the first pong sends the last packets again.
func TestScenarioResendAfterOutage(t *testing.T) {
	s, a, b := pair(t, false)
	a.stream(b, 100*time.Millisecond, 6*time.Second)
	s.run(5 * time.Second)
	s.drop = func(_, _ netip.AddrPort, _ int) bool { return true }
	s.run(8 * time.Second) // the stream has ended; nothing but pings goes on
	s.drop = nil
	healed := s.now
	s.run(3 * time.Second)
	if at, ok := b.got[a.numbers]; !ok || at.Sub(healed) > 1500*time.Millisecond {
		t.Fatalf("the last packet: %v, %v after the network was back", ok, at.Sub(healed))
	}
}

// The relay is known but down: neither the first packet nor one after an outage
// of the direct path waits for it.
func TestScenarioRelayDown(t *testing.T) {
	s, a, b := pair(t, true)
	s.relayUp = false
	a.stream(b, 100*time.Millisecond, 30*time.Second)
	s.run(time.Second)
	if at, ok := b.got[1]; !ok || at.Sub(a.sentAt[1]) > 3*s.delay {
		t.Errorf("the first packet: %v, after %v", ok, at.Sub(a.sentAt[1]))
	}
	s.run(5 * time.Second)
	s.drop = func(_, _ netip.AddrPort, _ int) bool { return true }
	s.run(6 * time.Second)
	healed := s.now
	s.drop = nil
	s.run(2 * time.Second)
	wantConn(t, a, b, ConnDirect)
	if g := b.gap(healed, s.now); g > 1300*time.Millisecond {
		t.Errorf("gap of %v after the path was back", g)
	}
}

// A path that once answered is tried for ever while payload goes by the relay,
// also with a node that is no peer.
func TestScenarioDirectComesBackToStranger(t *testing.T) {
	s, a, b := pair(t, true)
	for _, n := range []*simNode{a, b} {
		n.m.cfg.Peer = nil
		n.m.list[0].paired = false
		n.m.list[0].paths[0].sources = []Source{SourceRelay}
	}
	a.stream(b, 100*time.Millisecond, 5*time.Minute)
	s.run(5 * time.Second)
	s.drop = func(_, _ netip.AddrPort, _ int) bool { return true }
	s.run(4 * time.Minute)
	wantConn(t, a, b, ConnRelay)
	s.drop = nil
	s.run(10 * time.Second)
	wantConn(t, a, b, ConnDirect)
	wantConn(t, b, a, ConnDirect)
}

func TestScenarioLossDoesNotFlap(t *testing.T) {
	s, a, b := pair(t, true)
	n := uint32(12345)
	s.drop = func(_, _ netip.AddrPort, _ int) bool {
		n = n*1664525 + 1013904223
		return n>>16%100 < 5
	}
	a.stream(b, tick20, 10*time.Minute)
	s.run(10 * time.Minute)
	r, _ := a.m.Remote(s.now, b.id)
	if r.Switches > 20 {
		t.Errorf("%d changes at 5 %% loss: %v", r.Switches, r.SwitchReasons)
	}
	if a.relayed > a.numbers/50 {
		t.Errorf("%d of %d packets through the relay", a.relayed, a.numbers)
	}
}

// Two addresses of nearly one latency: no taking turns. A clearly faster one wins.
func TestScenarioTwoAddresses(t *testing.T) {
	alias := netip.MustParseAddrPort("198.51.100.3:41820")
	alias6 := netip.MustParseAddrPort("[2001:db8::3]:41820")
	for _, test := range []struct {
		name   string
		second netip.AddrPort
		lag    func(n int) time.Duration // of the second; the first has 10 ms
		want   netip.AddrPort            // zero: either
		max    uint64
	}{
		{"equal", alias, func(int) time.Duration { return 10 * time.Millisecond }, netip.AddrPort{}, 2},
		{"noisy", alias, func(n int) time.Duration { return time.Duration(8+n%5) * time.Millisecond }, netip.AddrPort{}, 4},
		{"faster", alias, func(int) time.Duration { return 2 * time.Millisecond }, alias, 3},
		{"slower", alias, func(int) time.Duration { return 40 * time.Millisecond }, netip.MustParseAddrPort(addrB), 2},
		{"IPv6, equal", alias6, func(int) time.Duration { return 10 * time.Millisecond }, alias6, 3},
		{"IPv6, a little slower", alias6, func(int) time.Duration { return 11 * time.Millisecond }, alias6, 3},
		{"IPv6, noisy", alias6, func(n int) time.Duration { return time.Duration(9+n%4) * time.Millisecond }, netip.AddrPort{}, 4},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, a, b := pair(t, true)
			b.aliases = []netip.AddrPort{test.second}
			n := 0
			s.lag = func(_, to netip.AddrPort) time.Duration {
				if n++; to == test.second {
					return test.lag(n)
				}
				return 10 * time.Millisecond
			}
			a.introduce(b, true, test.second)
			a.stream(b, tick20, 10*time.Minute)
			s.run(9 * time.Minute)
			r, _ := a.m.Remote(s.now, b.id)
			if r.Switches > test.max {
				t.Errorf("%d changes: %s", r.Switches, strings.Join(a.changes(), "\n"))
			}
			if test.want.IsValid() && r.UDP != test.want {
				t.Errorf("path is %v\n%s", r.UDP, strings.Join(a.changes(), "\n"))
			}
		})
	}
}
