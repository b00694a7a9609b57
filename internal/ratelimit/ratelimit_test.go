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

// S26: who shares a bucket with a prefix that empties it is not limited by that, and has no more
// than others for it.
func TestSharedBucket(t *testing.T) {
	r := NewTable(20)
	now := time.Unix(1000, 0)
	flooder := netip.MustParseAddr("192.0.2.1")
	taken := r.places(flooder)
	passed := make(map[int]int) // by the row that is shared
	for i := range 1 << 16 {
		other := netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1})
		places := r.places(other)
		for row := range places {
			if _, done := passed[row]; done || places[row] != taken[row] || places[1-row] == taken[1-row] {
				continue
			}
			for range 100 {
				r.Allow(flooder, now)
			}
			for range 100 {
				if r.Allow(other, now) {
					passed[row]++
				}
			}
		}
	}
	if len(passed) != 2 || passed[0] != 20 || passed[1] != 20 {
		t.Errorf("passed, by the row shared with one that has none left: %v", passed)
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
