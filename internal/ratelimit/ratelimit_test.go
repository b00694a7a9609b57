package ratelimit

import (
	"net/netip"
	"testing"
	"time"
)

func TestPrefixes(t *testing.T) {
	for _, test := range []struct{ addr, want string }{
		{"192.0.2.77", "192.0.2.0/24"},
		{"::ffff:192.0.2.77", "192.0.2.0/24"},
		{"2001:db8:1:2ff::1", "2001:db8:1:200::/56"},
		{"fe80::1%eth0", "fe80::/56"},
	} {
		if got := PrefixOf(netip.MustParseAddr(test.addr)).String(); got != test.want {
			t.Errorf("%s: %s", test.addr, got)
		}
	}
}

func TestRates(t *testing.T) {
	r := NewTable(20)
	now := time.Unix(1000, 0)
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.200")
	passed := 0
	for i := range 100 {
		if r.Allow([]netip.Addr{a, b}[i%2], now) { // one prefix
			passed++
		}
	}
	if passed != 20 {
		t.Errorf("%d passed at once", passed)
	}
	if !r.Allow(a, now.Add(time.Second)) {
		t.Error("nothing came back")
	}
	if unlimited := NewTable(0); !unlimited.Allow(a, now) {
		t.Error("no limit is a limit")
	}
}
