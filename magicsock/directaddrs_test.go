package magicsock

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/nodetun/nodetun/identity"
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
	c.addrs.set(&c.addrs.found, []DirectAddr{
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
	c := start(t, loopbackConfig(1))
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
}

// What others are told is always computed anew, by one goroutine: a part that was
// computed earlier cannot win, and no change is told twice.
func TestAddressesAreComputedAnew(t *testing.T) {
	told := 0
	cfg := loopbackConfig(1)
	cfg.OnAddrsChange = func() { told++ }
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	right := c.DirectAddrs()
	c.addrs.set(&c.addrs.local, []DirectAddr{{addrPort("192.0.2.1:1"), AddrLocal}})
	told = 0
	for range 3 {
		c.addrs.look(partLocal)
		c.addrs.update()
	}
	if got := c.DirectAddrs(); told != 1 || !slices.Equal(got, right) {
		t.Errorf("told %d times, and has %v, want %v", told, got, right)
	}

	relay, err := identity.ParseRelayURL("https://relay.example.org")
	if err != nil {
		t.Fatal(err)
	}
	c.relays.SetHome(relay) // by another goroutine than the one that tells
	c.addrs.update()
	if c.addrs.home != relay || c.HomeRelay() != relay || told != 2 {
		t.Errorf("home %v, told %d times", c.addrs.home, told)
	}
}

func TestWaitDirectAddrsGivesUp(t *testing.T) {
	c := start(t, loopbackConfig(1))
	c.addrs.set(&c.addrs.local, nil)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if list, err := c.WaitDirectAddrs(ctx); err == nil {
		t.Errorf("got %v", list)
	}
	go c.addrs.set(&c.addrs.found, []DirectAddr{{addrPort("203.0.113.7:1000"), AddrSTUN}})
	if list, err := c.WaitDirectAddrs(context.Background()); err != nil || len(list) != 1 {
		t.Errorf("got %v, %v", list, err)
	}
}
