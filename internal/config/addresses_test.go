package config

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nodetun/nodetun/identity"
)

func TestAddressesRoundTrip(t *testing.T) {
	relay, err := identity.ParseRelayURL("https://relay.example.org")
	if err != nil {
		t.Fatal(err)
	}
	id := newID(t)
	want := Addresses{
		Pool: netip.MustParsePrefix("100.100.0.0/16"),
		IPv4: map[identity.NodeID]netip.Addr{id: netip.MustParseAddr("100.100.3.4")},
		Peers: map[identity.NodeID]LastGood{id: {
			Direct: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.7:41820")}, Relay: relay, Seen: time.Unix(1_700_000_000, 0).UTC(),
		}},
	}
	f := NewAddressFile(t.TempDir())
	if got, err := f.Load(); err != nil || !reflect.DeepEqual(got, Addresses{}) {
		t.Errorf("no file: %+v, %v", got, err)
	}
	if err := f.Save(want); err != nil {
		t.Fatal(err)
	}
	got, err := f.Load()
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	if addr := want.Peers[id]; addr.Addr(id).ID != id {
		t.Error("Addr names another node")
	}
}

func TestAddressesBroken(t *testing.T) {
	for _, tc := range []struct{ name, content, want string }{
		{"syntax", "{\n\"pool\": \n}\n", ":3"},
		{"type", "{\n\"peers\": {\"" + newID(t).String() + "\": {\"direct\": 3}}}\n", ":2"},
		{"empty", "", "unexpected end"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := write(t, "addresses.json", tc.content)
			_, err := NewAddressFile(filepath.Dir(path)).Load()
			if !errors.Is(err, ErrBadFile) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q in it", err, tc.want)
			}
			if b, _ := os.ReadFile(path); string(b) != tc.content {
				t.Errorf("the file was changed: %q", b)
			}
		})
	}
}
