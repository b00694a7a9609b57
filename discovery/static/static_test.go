package static_test

import (
	"net/netip"
	"testing"

	"github.com/nodetun/nodetun/discovery"
	"github.com/nodetun/nodetun/discovery/static"
	"github.com/nodetun/nodetun/identity"
)

func TestSource(t *testing.T) {
	var s static.Source
	id := identity.GenerateSecretKey().NodeID()
	ask := func() (items []discovery.Item) {
		t.Helper()
		if err := s.Resolve(t.Context(), id, func(i discovery.Item) { items = append(items, i) }); err != nil {
			t.Fatal(err)
		}
		return items
	}
	if got := ask(); len(got) != 0 {
		t.Errorf("empty source: %+v", got)
	}
	direct := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:1")}
	s.Set(identity.NodeAddr{ID: id, Direct: direct})
	direct[0] = netip.AddrPort{} // the source keeps a copy
	got := ask()
	if len(got) != 1 || got[0].Addr.ID != id || got[0].Addr.Direct[0].String() != "192.0.2.1:1" {
		t.Errorf("got %+v", got)
	}
	s.Set(identity.NodeAddr{ID: id})
	if got := ask(); len(got) != 0 {
		t.Errorf("after removal: %+v", got)
	}
}
