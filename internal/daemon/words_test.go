package daemon

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/config"
	"github.com/nodetun/nodetun/internal/localapi"
	"github.com/nodetun/nodetun/internal/rules"
	"github.com/nodetun/nodetun/magicsock"
	"github.com/nodetun/nodetun/magicsock/nodemap"
)

func TestCheckRule(t *testing.T) {
	parse := func(text string) rules.Rules {
		r, err := rules.Parse([]string{text})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for _, tc := range []struct {
		name, rules, asked string
		allowed            bool
		rule               string
		bad                bool
	}{
		{"named", "tcp/22 icmp", "tcp/22", true, "tcp/22", false},
		{"capital letters", "tcp/22 icmp", "ICMP", true, "icmp", false},
		{"other protocol", "tcp/53", "udp/53", false, "", false},
		{"under all", "all", "udp/53", true, "all", false},
		{"all without all", "tcp/22 icmp", "all", false, "", false},
		{"denied", "", "tcp/22", false, "", false},
		{"two rules", "all", "tcp/22 icmp", false, "", true},
		{"nothing", "all", "", false, "", true},
		{"no rule", "all", "ssh\x1b[31m", false, "", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := checkRule(config.Peer{ID: newID(), Rules: parse(tc.rules)}, tc.asked)
			if (err != nil) != tc.bad || tc.bad && localapi.KindOf(err) != localapi.KindBadRequest {
				t.Fatalf("error %v, want one: %v", err, tc.bad)
			}
			if got.Allowed != tc.allowed || got.Rule != tc.rule {
				t.Errorf("%+v, want %v by %q", got, tc.allowed, tc.rule)
			}
			if err != nil && strings.ContainsRune(err.Error(), '\x1b') {
				t.Errorf("a control character comes back: %q", err) // S22
			}
		})
	}
}

func TestOwnName(t *testing.T) {
	if got := ownName("NAS"); got != "nas" {
		t.Errorf("%q, want nas", got)
	}
	host, _ := os.Hostname()
	if got := ownName(""); got != "" && !strings.HasPrefix(strings.ToLower(host), got) {
		t.Errorf("%q does not come from %q", got, host)
	}
}

// Only addresses that have answered are kept, the latest first, and not more
// than a few.
func TestLastGood(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	addr := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 41820)
	}
	info := magicsock.RemoteInfo{LastHeard: now, Addrs: []nodemap.AddrInfo{{Addr: addr(100)}}}
	if good, ok := lastGood(info); ok {
		t.Errorf("an address that never answered is kept: %+v", good)
	}
	for i := range maxGood + 3 {
		info.Addrs = append(info.Addrs, nodemap.AddrInfo{Addr: addr(i), LastPong: now.Add(time.Duration(i) * time.Second)})
	}
	good, ok := lastGood(info)
	if !ok || len(good.Direct) != maxGood || good.Direct[0] != addr(maxGood+2) || slices.Contains(good.Direct, addr(100)) {
		t.Errorf("%+v, %v", good, ok)
	}
	if want := now.Truncate(time.Minute); !good.Seen.Equal(want) {
		t.Errorf("seen %s, want %s", good.Seen, want)
	}
	relay, err := identity.ParseRelayURL("https://relay.example")
	if err != nil {
		t.Fatal(err)
	}
	silent := magicsock.RemoteInfo{RelayInfo: nodemap.RelayInfo{URL: relay}}
	if _, ok := lastGood(silent); ok {
		t.Error("a relay that was never heard of is kept")
	}
	silent.RelayInfo.LastHeard = now
	if good, ok := lastGood(silent); !ok || good.Relay != relay {
		t.Errorf("%+v, %v", good, ok)
	}
}

func TestMerge(t *testing.T) {
	a, b := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:2")
	old := config.Peer{ID: newID(), Name: "nas", Addrs: []netip.AddrPort{a}, Rules: rules.Default()}
	got := merge(old, config.Peer{ID: old.ID, Addrs: []netip.AddrPort{a, b}}, false)
	if got.Name != "nas" || !slices.Equal(got.Addrs, []netip.AddrPort{b, a}) || got.Rules.String() != old.Rules.String() {
		t.Errorf("%+v", got)
	}
	// Rules that are given replace the old ones: adding a peer again never widens them unasked (S15).
	only, _ := rules.Parse([]string{"udp/53"})
	got = merge(old, config.Peer{ID: old.ID, Name: "box", Rules: only}, true)
	if got.Name != "box" || got.Rules.String() != "udp/53" {
		t.Errorf("%+v", got)
	}
}
