package nodemap

import (
	"net/netip"
	"testing"
	"time"
)

// A way through somebody's tunnel is worse than any other, and while it is in use the
// others are asked again soon, however fast it is.
func TestDetour(t *testing.T) {
	at := func(addr string, latency time.Duration, detour bool) *path {
		return &path{addr: netip.MustParseAddrPort(addr), latency: latency, detour: detour}
	}
	plain, tunnel := at("192.0.2.1:1", 40*time.Millisecond, false), at("[2001:db8::1]:1", time.Millisecond, true)
	if better(tunnel, plain) || !better(plain, tunnel) {
		t.Error("the tunnel is preferred")
	}
	for _, tc := range []struct {
		p    *path
		want time.Duration
	}{{tunnel, detourGap}, {plain, upgradeGap}, {at("192.0.2.1:1", time.Millisecond, false), 0}} {
		if got := tc.p.upgradeGap(); got != tc.want {
			t.Errorf("%v, %v: looks every %v", tc.p.addr, tc.p.latency, got)
		}
	}
}
