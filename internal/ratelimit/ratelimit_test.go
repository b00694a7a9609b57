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

// No span of a day has more than what a day may have.
func TestRateOverSpan(t *testing.T) {
	const most = 1000
	r := NewTableOver(most, 24*time.Hour)
	addr := netip.MustParseAddr("2001:db8::1")
	begin := time.Unix(1000, 0)
	passed := 0
	for at := time.Duration(0); at < 24*time.Hour; at += 20 * time.Second {
		for range 3 {
			if r.Allow(addr, begin.Add(at)) {
				passed++
			}
		}
	}
	if passed > most || passed < most*9/10 {
		t.Errorf("%d passed in a day", passed)
	}
}
