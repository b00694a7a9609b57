package relay

import (
	"testing"

	"github.com/nodetun/nodetun/identity"
)

func mustURL(t *testing.T, s string) identity.RelayURL {
	t.Helper()
	u, err := identity.ParseRelayURL(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestMap(t *testing.T) {
	a, b := mustURL(t, "https://a.example"), mustURL(t, "https://b.example")
	m := NewMap(Node{URL: b, STUNOnly: true}, Node{URL: a}, Node{}, Node{URL: a, STUNPort: 7})
	if m.Len() != 2 || m.Nodes()[0].URL != a {
		t.Fatalf("%+v", m.Nodes())
	}
	if n, ok := m.Get(a); !ok || n.STUNPort != 7 {
		t.Errorf("%+v %v", n, ok)
	}
	if n, ok := m.Get(b); !ok || n.STUNPort != DefaultSTUNPort {
		t.Errorf("%+v %v", n, ok)
	}
	if _, ok := m.Get(mustURL(t, "https://c.example")); ok {
		t.Error("found what is not there")
	}
	if urls := m.URLs(); len(urls) != 1 || urls[0] != a {
		t.Errorf("%v", urls)
	}
	if ModeDisabled.Choose(m, m).Len() != 0 || ModeCustom.Choose(Map{}, m).Len() != 2 || ModeDefault.Choose(m, Map{}).Len() != 2 {
		t.Error("mode chooses wrongly")
	}
}
