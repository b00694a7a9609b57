package nodemap

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/nodetun/nodetun/identity"
)

// A mapping that the NAT forgets after 10 s without packets lives as long as the
// session.
func TestScenarioShortMappings(t *testing.T) {
	s := newSim(t)
	s.relayUp = true
	a, b := s.node(1, addrA), s.node(2, addrB)
	for _, n := range []*simNode{a, b} {
		n.nat, n.mapping = true, 10*time.Second
	}
	a.introduce(b, true)
	a.stream(b, 40*time.Second, 10*time.Minute) // the session never ends, and is nearly idle
	s.run(3 * time.Second)
	wantConn(t, a, b, ConnDirect)
	s.run(9 * time.Minute)
	wantConn(t, a, b, ConnDirect)
	wantConn(t, b, a, ConnDirect)
	if r, _ := a.m.Remote(s.now, b.id); r.Switches > 2 {
		t.Errorf("%d switches\n%s", r.Switches, strings.Join(a.changes(), "\n"))
	}
}

// Traffic after a pause in which the mappings went away goes by the relay at once
// and directly soon after.
func TestScenarioTrafficAfterAPause(t *testing.T) {
	s := newSim(t)
	s.relayUp = true
	a, b := s.node(1, addrA), s.node(2, addrB)
	for _, n := range []*simNode{a, b} {
		n.nat, n.mapping = true, 10*time.Second
	}
	a.introduce(b, true)
	a.stream(b, tick20, 5*time.Second)
	s.run(10 * time.Minute)
	wantConn(t, a, b, ConnNone)
	began, first := s.now, a.numbers
	a.stream(b, tick20, 5*time.Second)
	s.run(time.Second)
	if at, ok := b.got[first+1]; !ok || at.Sub(began) > 100*time.Millisecond {
		t.Errorf("the first packet took %v", at.Sub(began))
	}
	s.run(2 * time.Second)
	wantConn(t, a, b, ConnDirect)
}

// A NAT moves to another address: as soon as we know it the other side does, and
// the path is direct again.
func TestScenarioNewOwnAddress(t *testing.T) {
	s := newSim(t)
	s.relayUp = true
	a, b := s.node(1, addrA), s.node(2, addrB)
	a.nat, b.nat = true, true
	a.introduce(b, true)
	a.stream(b, tick20, time.Minute)
	s.run(3 * time.Second)
	wantConn(t, a, b, ConnDirect)
	a.local = netip.MustParseAddrPort("203.0.113.99:41820")
	clear(a.opened)
	s.run(time.Second)
	wantConn(t, a, b, ConnMixed)
	a.do(a.m.SetOwnAddrs(s.now, []netip.AddrPort{a.local}, nil))
	s.run(time.Second)
	wantConn(t, a, b, ConnDirect)
	wantConn(t, b, a, ConnDirect)
	calls := a.count(SendCallMeMaybe)
	a.do(a.m.SetOwnAddrs(s.now, []netip.AddrPort{a.local, netip.MustParseAddrPort("192.0.2.77:1")}, nil))
	a.do(a.m.SetOwnAddrs(s.now, []netip.AddrPort{a.local}, nil))
	if n := a.count(SendCallMeMaybe); n != calls {
		t.Errorf("%d call-me-maybes although the path is direct", n-calls)
	}
}

// While payload goes directly the relay is pinged every 30 s, so that it is ready.
func TestRelayIsKeptWarm(t *testing.T) {
	s, a, b := pair(t, true)
	a.stream(b, tick20, 10*time.Minute)
	s.run(10 * time.Minute)
	wantConn(t, a, b, ConnDirect)
	pings := 0
	for _, act := range a.log {
		if act.Kind == SendPing && !act.To.Relay.IsZero() {
			pings++
		}
	}
	if pings < 19 || pings > 25 {
		t.Errorf("%d pings through the relay in 10 minutes", pings)
	}
}

// A direct address that falls silent is not left for a relay that is down.
func TestRelayStateDown(t *testing.T) {
	s, a, b := pair(t, true)
	a.stream(b, tick20, time.Minute)
	s.run(10 * time.Second)
	s.relayUp = false
	a.do(a.m.RelayState(s.now, s.relay, false))
	s.run(3 * time.Second)
	s.drop = func(_, _ netip.AddrPort, _ int) bool { return true }
	s.run(4 * time.Second)
	wantConn(t, a, b, ConnDirect)
	a.do(a.m.RelayState(s.now, s.relay, true))
	s.relayUp = true
	s.run(2 * time.Second)
	if c := a.conn(b); c != ConnRelay && c != ConnMixed {
		t.Errorf("path is %v with the relay back", c)
	}
}

// After the home relay changed both sides learn of it by pings.
func TestHomeChanged(t *testing.T) {
	s, a, b := pair(t, true)
	other := testURL(t, "https://other.example/")
	a.stream(b, tick20, time.Minute)
	s.run(time.Second)
	acts := append([]Action(nil), a.m.HomeChanged(s.now, other)...)
	asked := map[identity.RelayURL]bool{}
	for _, act := range acts {
		if act.Kind == SendPing && !act.To.Relay.IsZero() {
			asked[act.To.Relay] = true
		}
	}
	if !asked[s.relay] || !asked[other] {
		t.Errorf("asked %v", asked)
	}
	a.do(a.m.RelayState(s.now, s.relay, false))
	s.run(time.Second) // the simulated network delivers by any relay
	a.do(a.m.HomeChanged(s.now, other))
	s.run(time.Second)
	if r, _ := a.m.Remote(s.now, b.id); r.RelayInfo.URL != other {
		t.Errorf("relay of the node is %v", r.RelayInfo.URL)
	}
	if r, _ := b.m.Remote(s.now, a.id); r.RelayInfo.URL != other {
		t.Errorf("it knows our relay as %v", r.RelayInfo.URL)
	}
}

func TestActive(t *testing.T) {
	s, a, b := pair(t, false)
	if a.m.Active(s.now) {
		t.Error("active before any payload")
	}
	a.stream(b, tick20, time.Second)
	s.run(2 * time.Second)
	if !a.m.Active(s.now) || !b.m.Active(s.now) {
		t.Error("not active after payload")
	}
	s.run(time.Minute)
	if a.m.Active(s.now) {
		t.Error("active a minute after the last payload")
	}
}

// A call-me-maybe that was sent before the node was there is sent again when the
// node asks: both have to ping at one time to open their NATs.
func TestScenarioOneStartsAfterTheOther(t *testing.T) {
	s := newSim(t)
	a, b := s.node(1, addrA), s.node(2, addrB)
	a.nat, b.nat = true, true
	a.introduce(b, true)
	b.introduce(a, true)
	a.stream(b, tick20, 10*time.Second)
	s.run(35 * time.Millisecond)
	s.relayUp = true // now b is there
	b.stream(a, tick20, 10*time.Second)
	s.run(500 * time.Millisecond)
	wantConn(t, a, b, ConnDirect)
	wantConn(t, b, a, ConnDirect)
}

// Two nodes that answer each other's call-me-maybes do not do it for ever.
func TestCallMeMaybesAreBounded(t *testing.T) {
	s := newSim(t)
	s.relayUp = true
	s.drop = func(_, _ netip.AddrPort, _ int) bool { return true }
	a, b := s.node(1, addrA), s.node(2, addrB)
	a.introduce(b, true)
	a.stream(b, tick20, time.Minute)
	s.run(time.Minute)
	if n := a.count(SendCallMeMaybe); n > 31 {
		t.Errorf("%d call-me-maybes in a minute", n)
	}
}
