//go:build linux

package hosttest

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
)

// Without Main: these tests run no nodetun.
func TestMain(m *testing.M) { os.Exit(m.Run()) }

// socket opens a UDP socket inside the host.
func socket(t *testing.T, h *Host, addr string) *net.UDPConn {
	t.Helper()
	var conn *net.UDPConn
	h.NS.Do(t, func() {
		var err error
		if conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr))); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { conn.Close() })
	return conn
}

// send sends a datagram and returns the address it came from, or no address if
// it does not arrive. One that is to arrive is waited for longer.
func send(t *testing.T, from *net.UDPConn, to netip.AddrPort, at *net.UDPConn, arrives bool) netip.AddrPort {
	t.Helper()
	if _, err := from.WriteToUDPAddrPort([]byte(t.Name()), to); err != nil {
		t.Logf("send to %v: %v", to, err)
	}
	wait := 200 * time.Millisecond // one machine and no queue: what passes is there at once
	if arrives {
		wait = time.Minute
	}
	if err := at.SetReadDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1500)
	n, seen, err := at.ReadFromUDPAddrPort(b)
	if err != nil {
		return netip.AddrPort{}
	}
	if string(b[:n]) != t.Name() {
		t.Errorf("received %q", b[:n])
	}
	return netip.AddrPortFrom(seen.Addr().Unmap(), seen.Port())
}

// What each kind of router does: to the port outside, to what comes from
// another port of an address that was sent to, and to what comes from elsewhere.
func TestNetnsRouterKinds(t *testing.T) {
	for _, tc := range []struct {
		kind               Kind
		passes, keeps      bool // UDP at all; the port, for every destination
		sameAddr, stranger bool // may answer
	}{
		{Easy, true, true, false, false},
		{Restricted, true, true, true, false},
		{FullCone, true, true, true, true},
		{Symmetric, true, false, false, false},
		{Sequential, true, false, false, false},
		{Firewall, true, true, false, false},
		{Blocked, false, false, false, false},
	} {
		t.Run(string(tc.kind), func(t *testing.T) {
			world := NewInternet(t)
			r, h := world.Router(t, RouterConfig{Kind: tc.kind}), New(t, "a")
			r.Join(t, h)
			inside := socket(t, h, "0.0.0.0:41820")
			first, other := socket(t, world.Host, "203.0.113.1:1000"), socket(t, world.Host, "203.0.113.1:1001")
			second := socket(t, world.Host, "203.0.113.2:1000")
			far := netip.MustParseAddrPort

			one := send(t, inside, far("203.0.113.1:1000"), first, tc.passes)
			if one.IsValid() != tc.passes {
				t.Fatalf("seen from %v", one)
			}
			if !tc.passes {
				return
			}
			if back := send(t, first, one, inside, true); back != far("203.0.113.1:1000") {
				t.Errorf("the answer comes from %v", back)
			}
			if got := send(t, other, one, inside, tc.sameAddr).IsValid(); got != tc.sameAddr {
				t.Errorf("another port of the address answers: %v, want %v", got, tc.sameAddr)
			}
			if got := send(t, second, one, inside, tc.stranger).IsValid(); got != tc.stranger {
				t.Errorf("a stranger answers: %v, want %v", got, tc.stranger)
			}
			two := send(t, inside, far("203.0.113.2:1000"), second, true)
			if !two.IsValid() || (one == two && one.Port() == 41820) != tc.keeps {
				t.Errorf("seen from %v and %v", one, two)
			}
			if tc.kind == Sequential && two.Port() != one.Port()+1 {
				t.Errorf("ports %d and %d", one.Port(), two.Port())
			}
		})
	}
}

// Two hosts behind one router meet at its address outside only with hairpinning.
func TestNetnsRouterHairpin(t *testing.T) {
	for _, hairpin := range []bool{true, false} {
		world := NewInternet(t)
		r := world.Router(t, RouterConfig{Kind: Easy, Isolate: true, Hairpin: hairpin})
		a, b := New(t, "a"), New(t, "b")
		r.Join(t, a)
		atB := r.Join(t, b)
		sa, sb := socket(t, a, "0.0.0.0:1111"), socket(t, b, "0.0.0.0:2222")
		relay := socket(t, world.Host, "203.0.113.1:1000")
		outA := send(t, sa, netip.MustParseAddrPort("203.0.113.1:1000"), relay, true)
		outB := send(t, sb, netip.MustParseAddrPort("203.0.113.1:1000"), relay, true)
		if got := send(t, sa, netip.MustParseAddrPort(atB.Addr+":2222"), sb, false); got.IsValid() {
			t.Error("the hosts are not isolated")
		}
		got := send(t, sa, outB, sb, hairpin)
		if got.IsValid() != hairpin || hairpin && got != outA {
			t.Errorf("hairpin %v: seen from %v, want %v", hairpin, got, outA)
		}
		if hairpin && send(t, sb, got, sa, true) != outB {
			t.Error("no way back")
		}
	}
}

// A router that was reset or renumbered maps anew, for open sockets too.
func TestNetnsRouterChanges(t *testing.T) {
	world := NewInternet(t)
	r, h := world.Router(t, RouterConfig{Kind: Easy}), New(t, "a")
	r.Join(t, h)
	inside, relay := socket(t, h, "0.0.0.0:41820"), socket(t, world.Host, "203.0.113.1:1000")
	at := netip.MustParseAddrPort("203.0.113.1:1000")
	one := send(t, inside, at, relay, true)
	r.Remap(t)
	two := send(t, inside, at, relay, true)
	if !one.IsValid() || !two.IsValid() || one.Port() == two.Port() {
		t.Errorf("seen from %v, after a reset from %v", one, two)
	}
	world.Renumber(t, r)
	if three := send(t, inside, at, relay, true); !three.IsValid() || three.Addr() == two.Addr() {
		t.Errorf("after a new address seen from %v", three)
	}
	r.BlockUDP(t)
	if got := send(t, inside, at, relay, false); got.IsValid() {
		t.Errorf("passes a block from %v", got)
	}
	r.UnblockUDP(t)
	if got := send(t, inside, at, relay, true); !got.IsValid() {
		t.Error("does not pass after the block")
	}
}

// Behind two routers, a host is seen from the outer one's address.
func TestNetnsRoutersInARow(t *testing.T) {
	world := NewInternet(t)
	outer := world.Router(t, RouterConfig{Kind: Easy, Carrier: true})
	inner, h := outer.Behind(t, RouterConfig{Kind: Easy}), New(t, "a")
	inner.Join(t, h)
	inside, relay := socket(t, h, "0.0.0.0:41820"), socket(t, world.Host, "203.0.113.1:1000")
	if got := send(t, inside, netip.MustParseAddrPort("203.0.113.1:1000"), relay, true); got.Addr().String() != outer.WAN {
		t.Errorf("seen from %v, want %s", got, outer.WAN)
	}
}

// IPv6 passes unchanged, answers only.
func TestNetnsRouterIPv6(t *testing.T) {
	world := NewInternet(t)
	r, h := world.Router(t, RouterConfig{Kind: Symmetric, IPv6: true}), New(t, "a")
	r.Join(t, h)
	inside, relay := socket(t, h, "[::]:41820"), socket(t, world.Host, "[2001:db8::1]:1000")
	other := socket(t, world.Host, "[2001:db8::2]:1000")
	seen := send(t, inside, netip.MustParseAddrPort("[2001:db8::1]:1000"), relay, true)
	if seen.Port() != 41820 || !send(t, relay, seen, inside, true).IsValid() {
		t.Errorf("seen from %v", seen)
	}
	if send(t, other, seen, inside, false).IsValid() {
		t.Error("a stranger answers")
	}
}
