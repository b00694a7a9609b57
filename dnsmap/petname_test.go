package dnsmap_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/nodetun/nodetun/dnsmap"
	"github.com/nodetun/nodetun/identity"
)

// The ids of the tests are keys of RFC 8032 and RFC 7748 fame, all points of
// the curve.
var (
	selfID  = mustID("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
	peerID  = mustID("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
	otherID = mustID("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025")
)

func mustID(s string) identity.NodeID {
	id, err := identity.ParseNodeID(s)
	if err != nil {
		panic(err)
	}
	return id
}

// S21: a peer proposes a name that would catch other traffic, or pass for a
// NodeID.
func TestS21Petnames(t *testing.T) {
	for _, name := range []string{
		"a", "nas", "NAS", "web-1", "1and1", "x--y", strings.Repeat("a", 51), strings.Repeat("a", 53), strings.Repeat("a", 63),
	} {
		if err := dnsmap.ValidPetname(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{
		"", "-a", "a-", "a.b", "a b", "a_b", "_dmarc", "münchen", "xn--mnchen-3ya", "XN--a", "0", "123456", "a\nb", "a\u202eb", "ｎas", "Kelvin\u212a",
		strings.Repeat("a", 52), strings.Repeat("a", 64), peerID.String(), peerID.Hex(), strings.ToUpper(peerID.String()),
		"localhost", "wpad", "isatap", "autodiscover", "broadcasthost", "router", "gateway", "dns", "ns", "www", "api", "WPAD", "LocalHost",
	} {
		err := dnsmap.ValidPetname(name)
		if !errors.Is(err, dnsmap.ErrBadPetname) {
			t.Errorf("%q accepted: %v", name, err)
		} else if strings.ContainsAny(err.Error(), "\n\u202e") {
			t.Errorf("%q: the error passes control characters on", name)
		}
	}
}

func newNames(t testing.TB) *dnsmap.Names {
	t.Helper()
	n, err := dnsmap.NewNames(dnsmap.NamesConfig{Self: selfID, SelfName: "Laptop", HostName: "thinkpad.example.org"})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestNames(t *testing.T) {
	n := newNames(t)
	for _, step := range []struct {
		name string
		id   identity.NodeID
		err  error
	}{
		{"NAS", peerID, nil},
		{"nas", peerID, nil},
		{"nas", otherID, dnsmap.ErrNameTaken},
		{"laptop", otherID, dnsmap.ErrNameTaken},
		{"ThinkPad", otherID, dnsmap.ErrNameTaken},
		{"me", selfID, dnsmap.ErrNameTaken},
		{"wpad", otherID, dnsmap.ErrBadPetname},
		{"pi", otherID, nil},
	} {
		if err := n.Add(step.name, step.id); !errors.Is(err, step.err) {
			t.Errorf("Add(%q) = %v, want %v", step.name, err, step.err)
		}
	}
	if id, ok := n.IDOf("nAs"); !ok || id != peerID {
		t.Errorf("nAs is %s, %v", id, ok)
	}
	if got := n.FQDN(peerID); got != "nas.node.internal" {
		t.Errorf("FQDN %s", got)
	}
	if got := n.FQDN(selfID); got != "laptop.node.internal" {
		t.Errorf("own FQDN %s", got)
	}
	if err := n.Add("store", peerID); err != nil {
		t.Fatal(err)
	}
	if _, ok := n.IDOf("nas"); ok {
		t.Error("the old name still stands")
	}
	if err := n.Add("nas", otherID); err != nil {
		t.Errorf("the old name is not free: %v", err)
	}
	n.Remove(peerID)
	n.Remove(selfID)
	if got := n.FQDN(peerID); got != peerID.String()+".node.internal" {
		t.Errorf("FQDN of a nameless node %s", got)
	}
	if name, ok := n.NameOf(selfID); !ok || name != "laptop" {
		t.Errorf("own name %q, %v", name, ok)
	}
}

func TestZones(t *testing.T) {
	for zone, want := range map[string]string{
		"": "node.internal", "node.internal.": "node.internal", "Home.Example.COM": "home.example.com", "mesh": "mesh",
	} {
		n, err := dnsmap.NewNames(dnsmap.NamesConfig{Zone: zone, Self: selfID})
		if err != nil || n.Zone() != want {
			t.Errorf("%q: %v, %v", zone, n, err)
		}
	}
	for _, zone := range []string{".", "a..b", "a b", "-a.b", "home.arpa", "local", "x.local", "1.2.3.4", strings.Repeat("a.", 101) + "b"} {
		if _, err := dnsmap.NewNames(dnsmap.NamesConfig{Zone: zone, Self: selfID}); !errors.Is(err, dnsmap.ErrBadZone) {
			t.Errorf("%q accepted: %v", zone, err)
		}
	}
	if _, err := dnsmap.NewNames(dnsmap.NamesConfig{Self: selfID, SelfName: "my host"}); !errors.Is(err, dnsmap.ErrBadPetname) {
		t.Errorf("own name: %v", err)
	}
}

// A name that cannot be one is answered with one that is like it.
func TestSuggestedPetnames(t *testing.T) {
	for name, want := range map[string]string{
		"anna's laptop": "annas-laptop", "Büro_PC": "buero-pc", "café": "cafe", "-nas-": "nas", "a..b": "a-b", "Ångström": "aangstroem", "straße 7": "strasse-7",
		strings.Repeat("x y", 40): strings.Repeat("x-y", 21),
		"東京":                      "", "  ": "", "_": "", "www.": "", "12 ": "",
	} {
		err := dnsmap.ValidPetname(name)
		if err == nil {
			t.Errorf("%q is taken", name)
			continue
		}
		if _, got, _ := strings.Cut(err.Error(), ", such as "); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}
