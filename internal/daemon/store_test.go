package daemon

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/config"
	"github.com/nodetun/nodetun/internal/localapi"
)

func newID() identity.NodeID { return identity.GenerateSecretKey().NodeID() }

// offline is the node of an empty state directory.
func offline(t *testing.T) *Offline {
	t.Helper()
	o := &Offline{StateDir: filepath.Join(t.TempDir(), "state"), Settings: config.Default()}
	o.Settings.Name = "here"
	return o
}

// S15: without a word about rules a new peer may use ssh and ping, and nothing
// more is granted by adding it again.
func TestAddPeerDefaultRules(t *testing.T) {
	o, id := offline(t), newID()
	result, err := o.AddPeer(t.Context(), localapi.AddRequest{Peer: id.String(), Name: "nas"})
	if err != nil || !result.Added || !slices.Equal(result.Peer.Rules, []string{"tcp/22", "icmp"}) {
		t.Errorf("got %+v, %v", result, err)
	}
	if entry, err := o.Deny(t.Context(), localapi.RulesRequest{Peer: "nas"}); err != nil || len(entry.Rules) != 0 {
		t.Errorf("deny: %+v, %v", entry, err)
	}
	result, err = o.AddPeer(t.Context(), localapi.AddRequest{Peer: id.String(), Addrs: []string{"192.0.2.7:41820"}})
	if err != nil || result.Added || len(result.Peer.Rules) != 0 || result.Peer.Name != "nas" {
		t.Errorf("a denied peer that is added again: %+v, %v", result, err)
	}
}

func TestAddPeerRefused(t *testing.T) {
	o, nas := offline(t), newID()
	first, err := o.AddPeer(t.Context(), localapi.AddRequest{Peer: nas.String(), Name: "nas"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name    string
		request localapi.AddRequest
		kind    localapi.Kind
		want    string
	}{
		{"no id", localapi.AddRequest{Peer: "nas"}, localapi.KindBadRequest, "neither a node id nor a ticket"},
		{"ourselves", localapi.AddRequest{Peer: first.Self.String()}, localapi.KindBadRequest, "this node itself"},
		{"name of another", localapi.AddRequest{Peer: newID().String(), Name: "NAS"}, localapi.KindConflict, nas.String()},
		{"our own name", localapi.AddRequest{Peer: newID().String(), Name: "Here"}, localapi.KindConflict, "own"},
		{"bad name", localapi.AddRequest{Peer: newID().String(), Name: "wpad"}, localapi.KindBadRequest, "wpad"},
		{"bad address", localapi.AddRequest{Peer: newID().String(), Addrs: []string{"192.0.2.7"}}, localapi.KindBadRequest, "ip:port"},
		{"address in the tunnel", localapi.AddRequest{Peer: newID().String(), Addrs: []string{"[fd6e:6f64:6574::1]:41820"}}, localapi.KindBadRequest, "inside the tunnel"},
		{"bad relay", localapi.AddRequest{Peer: newID().String(), Relay: "ftp://r.example"}, localapi.KindBadRequest, "relay"},
		{"bad rule", localapi.AddRequest{Peer: newID().String(), Allow: []string{"tcp/0"}}, localapi.KindBadRequest, "tcp/0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := o.AddPeer(t.Context(), tc.request)
			if err == nil || localapi.KindOf(err) != tc.kind || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v (%s), want %q (%s)", err, localapi.KindOf(err), tc.want, tc.kind)
			}
		})
	}
	if list, err := o.Peers(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("peers %v, %v", list, err)
	}
}

func TestTicketAddsAddresses(t *testing.T) {
	o, id := offline(t), newID()
	addr := identity.NodeAddr{ID: id, Direct: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.7:41820")}}
	result, err := o.AddPeer(t.Context(), localapi.AddRequest{Peer: identity.FormatTicket(addr), Addrs: []string{"192.0.2.8:1"}})
	if err != nil || result.Peer.ID != id || !slices.Equal(result.Peer.Addrs, []string{"192.0.2.7:41820", "192.0.2.8:1"}) {
		t.Errorf("got %+v, %v", result, err)
	}
}

// What a ticket says is checked as what a user types: nothing of it makes the list
// unreadable.
func TestHostileTicket(t *testing.T) {
	o, id := offline(t), newID()
	bad := []string{"192.0.2.7:0", "0.0.0.0:1", "[::]:1", "224.0.0.1:1", "[ff02::1]:1", "255.255.255.255:1", "[fd6e:6f64:6574::1]:41820"}
	addr := identity.NodeAddr{ID: id}
	for _, text := range bad {
		addr.Direct = append(addr.Direct, netip.MustParseAddrPort(text))
	}
	for i := range 200 {
		addr.Direct = append(addr.Direct, netip.AddrPortFrom(netip.MustParseAddr("192.0.2.7"), uint16(1000+i)))
	}
	ticket := identity.FormatTicket(addr)
	if _, err := o.AddPeer(t.Context(), localapi.AddRequest{Peer: " " + ticket + "\u200b", Name: "eve"}); err != nil {
		t.Fatal(err)
	}
	list, err := o.Peers(t.Context())
	if err != nil || len(list) != 1 || len(list[0].Addrs) == 0 || len(list[0].Addrs) > config.MaxAddrs {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, text := range bad {
		if slices.Contains(list[0].Addrs, text) {
			t.Errorf("%s was taken", text)
		}
	}
	// Adding more never makes the list too long to be read.
	for i := range 3 {
		if _, err := o.AddPeer(t.Context(), localapi.AddRequest{Peer: ticket, Addrs: []string{fmt.Sprintf("198.51.100.1:%d", i+1)}}); err != nil {
			t.Fatal(err)
		}
	}
	if list, err = o.Peers(t.Context()); err != nil || list[0].Addrs[0] != "198.51.100.1:3" {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestRulesOneByOne(t *testing.T) {
	o, id := offline(t), newID()
	if _, err := o.AddPeer(t.Context(), localapi.AddRequest{Peer: id.String(), Allow: []string{"all"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Deny(t.Context(), localapi.RulesRequest{Peer: id.String(), Rules: []string{"tcp/80"}}); localapi.KindOf(err) != localapi.KindBadRequest {
		t.Errorf("a single rule out of all: %v", err)
	}
	if _, err := o.Deny(t.Context(), localapi.RulesRequest{Peer: id.Hex()}); err != nil {
		t.Fatal(err)
	}
	entry, err := o.Allow(t.Context(), localapi.RulesRequest{Peer: id.String()[:6], Rules: []string{"tcp/80", "udp/53"}})
	if err != nil || strings.Join(entry.Rules, " ") != "tcp/80 udp/53" {
		t.Errorf("got %+v, %v", entry, err)
	}
	check, err := o.Check(t.Context(), id.String(), "udp/53")
	if err != nil || !check.Allowed || check.Rule != "udp/53" {
		t.Errorf("check: %+v, %v", check, err)
	}
	if check, err := o.Check(t.Context(), id.String(), "icmp"); err != nil || check.Allowed {
		t.Errorf("check: %+v, %v", check, err)
	}
}

func TestForgetUnknown(t *testing.T) {
	o := offline(t)
	if _, err := o.Forget(t.Context(), "nas"); !errors.Is(err, ErrNoKey) {
		t.Errorf("without a key: %v", err)
	}
	if _, err := os.Stat(o.StateDir); !os.IsNotExist(err) {
		t.Errorf("the state directory was made: %v", err)
	}
	if _, err := LoadOrCreateKey(o.StateDir); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Forget(t.Context(), "nas"); localapi.KindOf(err) != localapi.KindNotFound {
		t.Errorf("got %v", err)
	}
}

func TestKeyIsMadeOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	ids := make([]identity.NodeID, 8)
	var tasks sync.WaitGroup
	for i := range ids {
		tasks.Go(func() {
			key, err := LoadOrCreateKey(dir)
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = key.NodeID()
		})
	}
	tasks.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("two keys: %v", ids)
		}
	}
}

func TestWithExtra(t *testing.T) {
	a, b := newID(), newID()
	addr := netip.MustParseAddrPort("192.0.2.7:41820")
	list := []config.Peer{{ID: a, Name: "a"}}
	got := withExtra(list, []config.Peer{{ID: a, Addrs: []netip.AddrPort{addr}}, {ID: b}})
	if len(got) != 2 || got[0].Name != "a" || !slices.Contains(got[0].Addrs, addr) || got[1].ID != b {
		t.Errorf("got %+v", got)
	}
	if len(list[0].Addrs) != 0 {
		t.Error("the list of the file was changed")
	}
}
