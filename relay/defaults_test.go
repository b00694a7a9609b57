package relay

import "testing"

// The relays for everybody are four, by https, and known by their whole names.
func TestDefaults(t *testing.T) {
	list := Defaults()
	if len(list) != 4 || list[0].String() != "https://use1-1.relay.n0.iroh.link./" {
		t.Errorf("%v", list)
	}
	for _, u := range list {
		if u.Parsed().Scheme != "https" {
			t.Errorf("%s", u)
		}
	}
}
