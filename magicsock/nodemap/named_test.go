package nodemap

import (
	"testing"
	"time"

	"github.com/nodetun/nodetun/identity"
)

// Who names a relay of a node, in which order, and which one counts in the end (S12, S27).
func TestNameRelay(t *testing.T) {
	url := func(name string) identity.RelayURL {
		u, err := identity.ParseRelayURL("https://" + name + ".example")
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	type word struct {
		source Source
		relay  string
	}
	for _, tc := range []struct {
		name  string
		words []word
		pong  int // comes through the relay that counts after so many words; 0: none
		want  string
	}{
		{"a guess is better than nothing", []word{{SourceGuess, "a"}}, 0, "a"},
		{"a guess replaces nothing", []word{{"dns", "a"}, {SourceGuess, "b"}}, 0, "a"},
		{"a hint replaces a guess", []word{{SourceGuess, "a"}, {"dns", "b"}}, 0, "b"},
		{"a hint replaces a hint", []word{{"dns", "a"}, {"local", "b"}}, 0, "b"},
		{"a hint does not replace what the user said", []word{{SourceApp, "a"}, {"dns", "b"}}, 0, "a"},
		{"a hint does not replace what the node signed", []word{{SourcePkarr, "a"}, {"dns", "b"}}, 0, "a"},
		{"what the node signed replaces what the user said long ago", []word{{SourceApp, "a"}, {SourcePkarr, "b"}}, 0, "b"},
		{"the user is heard again", []word{{SourcePkarr, "a"}, {SourceApp, "b"}}, 0, "b"},
		{"one that works stays", []word{{SourceGuess, "a"}, {SourcePkarr, "b"}, {SourceApp, "c"}}, 1, "a"},
		{"who says the same lends weight", []word{{SourceGuess, "a"}, {SourcePkarr, "a"}, {"dns", "b"}}, 0, "a"},
		{"and takes none away", []word{{SourcePkarr, "a"}, {SourceGuess, "a"}, {"dns", "b"}}, 0, "a"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, paired)
			for i, word := range tc.words {
				if i > 0 && i == tc.pong {
					w.m.byID[bob].relay.lastPong = w.now
				}
				if _, err := w.m.Add(w.now, identity.NodeAddr{ID: bob, Relay: url(word.relay)}, word.source); err != nil {
					t.Fatal(err)
				}
				w.now = w.now.Add(time.Second)
			}
			if got := w.m.byID[bob].relay.url; got != url(tc.want) {
				t.Errorf("%s, want %s", got, url(tc.want))
			}
		})
	}
}
