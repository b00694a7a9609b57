package magicsock

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/nodetun/nodetun/magicsock/nodemap"
)

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// S11: one peer's word, or that of two in one network, or of strangers, does
// not make an address ours.
func TestClaimsNeedDistantPeers(t *testing.T) {
	ours := addrPort("203.0.113.7:1000")
	claim := func(from, addr string, paired bool) nodemap.Claim {
		return nodemap.Claim{From: addrPort(from), Addr: addrPort(addr), Paired: paired}
	}
	for _, tc := range []struct {
		name   string
		claims []nodemap.Claim
		want   []netip.AddrPort
	}{
		{"nobody", nil, nil},
		{"one peer", []nodemap.Claim{claim("192.0.2.1:1", "203.0.113.7:1000", true)}, nil},
		{"two of one /16", []nodemap.Claim{
			claim("192.0.2.1:1", "203.0.113.7:1000", true), claim("192.0.200.1:1", "203.0.113.7:1000", true),
		}, nil},
		{"two strangers", []nodemap.Claim{
			claim("192.0.2.1:1", "203.0.113.7:1000", false), claim("198.51.100.1:1", "203.0.113.7:1000", false),
		}, nil},
		{"a peer and a stranger", []nodemap.Claim{
			claim("192.0.2.1:1", "203.0.113.7:1000", true), claim("198.51.100.1:1", "203.0.113.7:1000", false),
		}, nil},
		{"two that disagree", []nodemap.Claim{
			claim("192.0.2.1:1", "203.0.113.7:1000", true), claim("198.51.100.1:1", "203.0.113.7:1001", true),
		}, nil},
		{"two distant peers", []nodemap.Claim{
			claim("192.0.2.1:1", "203.0.113.7:1000", true), claim("198.51.100.1:1", "203.0.113.7:1000", true),
		}, []netip.AddrPort{ours}},
		{"two of one IPv6 /32", []nodemap.Claim{
			claim("[2001:db8:1::1]:1", "203.0.113.7:1000", true), claim("[2001:db8:2::1]:1", "203.0.113.7:1000", true),
		}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := agreed(tc.claims); !slices.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

// S11: addresses of the inside are for peers.
func TestPrivateAddressesForPeersOnly(t *testing.T) {
	peer, other := testKey(5).NodeID(), testKey(6).NodeID()
	cfg := loopbackConfig(1)
	cfg.Paired = everybody
	c := start(t, cfg)
	public := addrPort("203.0.113.7:1000")
	c.SetDirectAddrs([]DirectAddr{
		{Addr: addrPort("10.1.2.3:5"), Kind: AddrPortmap},
		{Addr: addrPort("100.64.1.1:5"), Kind: AddrSTUN},
		{Addr: addrPort("[fd00::1]:5"), Kind: AddrLocal},
		{Addr: public, Kind: AddrSTUN},
		{Addr: public, Kind: AddrPortmap},
	})
	if got := c.callMeAddrs(peer); len(got) < 5 {
		t.Errorf("a peer is told %v", got)
	}
	c.cfg.Paired = nil
	if got := c.callMeAddrs(other); !slices.Equal(got, []netip.AddrPort{public}) {
		t.Errorf("a stranger is told %v", got)
	}
	if list := c.DirectAddrs(); list[3] != (DirectAddr{public, AddrSTUN}) {
		t.Errorf("the first kind does not win: %v", list)
	}
}

func TestBoundAddressIsTheOnlyOne(t *testing.T) {
	changed := make(chan struct{}, 8)
	cfg := loopbackConfig(1)
	cfg.OnAddrsChange = func() { changed <- struct{}{} }
	c := start(t, cfg)
	list, err := c.WaitDirectAddrs(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	v4, v6 := c.LocalAddrs()
	want := []DirectAddr{{v4, AddrLocal}}
	if v6.IsValid() {
		want = append(want, DirectAddr{v6, AddrLocal})
	}
	if !slices.Equal(list, want) {
		t.Errorf("got %v, want %v", list, want)
	}
	for len(changed) > 0 {
		<-changed
	}
	c.SetDirectAddrs([]DirectAddr{{addrPort("203.0.113.7:1000"), AddrSTUN}})
	c.SetDirectAddrs([]DirectAddr{{addrPort("203.0.113.7:1000"), AddrSTUN}})
	if len(changed) != 1 {
		t.Errorf("told %d times of one change", len(changed))
	}
}

func TestWaitDirectAddrsGivesUp(t *testing.T) {
	c := start(t, loopbackConfig(1))
	c.addrs.set(func() { c.addrs.local = nil })
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if list, err := c.WaitDirectAddrs(ctx); err == nil {
		t.Errorf("got %v", list)
	}
	go c.SetDirectAddrs([]DirectAddr{{addrPort("203.0.113.7:1000"), AddrSTUN}})
	if list, err := c.WaitDirectAddrs(context.Background()); err != nil || len(list) != 1 {
		t.Errorf("got %v, %v", list, err)
	}
}
