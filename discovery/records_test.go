package discovery_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/nodetun/nodetun/discovery"
	"github.com/nodetun/nodetun/identity"
)

func testID(t testing.TB) identity.NodeID {
	t.Helper()
	id, err := identity.ParseNodeID("df7wwi7bnsctfrvlza4pvtk6u6e34ddwwkjagnadtp5iwpjwrvqq")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestRecords(t *testing.T) {
	relay, err := identity.ParseRelayURL("https://relay.example")
	if err != nil {
		t.Fatal(err)
	}
	addr := identity.NodeAddr{ID: testID(t), Relay: relay, Direct: []netip.AddrPort{
		netip.MustParseAddrPort("[2001:db8::7]:4434"), netip.MustParseAddrPort("192.0.2.7:4433"), netip.MustParseAddrPort("192.0.2.7:4433"),
	}}
	texts := discovery.Records(addr)
	if want := []string{"relay=https://relay.example./", "addr=192.0.2.7:4433", "addr=[2001:db8::7]:4434"}; !slices.Equal(texts, want) {
		t.Errorf("%q", texts)
	}
	back := discovery.ParseRecords(addr.ID, texts)
	if back.ID != addr.ID || back.Relay != relay || !slices.Equal(back.Direct, []netip.AddrPort{addr.Direct[1], addr.Direct[0]}) {
		t.Errorf("%+v", back)
	}
}

func TestParseRecords(t *testing.T) {
	many := make([]string, 40)
	for i := range many {
		many[i] = fmt.Sprintf("addr=192.0.2.%d:1", i)
	}
	for _, tc := range []struct {
		name   string
		texts  []string
		relay  string
		direct int
	}{
		{name: "nothing"},
		{name: "what is not understood", texts: []string{"user-data=x", "relay", "addr=", "addr=192.0.2.1", "addr=192.0.2.1:1 192.0.2.2:2", "RELAY=https://a.example", "=", ""}},
		{name: "the first relay that can be read", texts: []string{"relay=no url", "relay=https://a.example", "relay=https://b.example"}, relay: "https://a.example./"},
		{name: "twice the same", texts: []string{"addr=192.0.2.1:1", "addr=192.0.2.1:1"}, direct: 1},
		{name: "more addresses than are taken", texts: many, direct: discovery.MaxDirect}, // S27
	} {
		t.Run(tc.name, func(t *testing.T) {
			addr := discovery.ParseRecords(testID(t), tc.texts)
			if addr.Relay.String() != tc.relay || len(addr.Direct) != tc.direct || addr.ID != testID(t) {
				t.Errorf("%+v", addr)
			}
		})
	}
}
