package tcpdiff

import (
	"slices"
	"testing"
)

func TestScripts(t *testing.T) {
	seen := map[Verb]bool{}
	for seed := range uint64(500) {
		s := Generate(seed)
		again, err := Parse(s.String())
		if err != nil || !slices.Equal(s, again) {
			t.Fatalf("seed %d: %v\n%s", seed, err, s)
		}
		for _, op := range s {
			seen[op.Verb] = true
		}
	}
	for _, w := range verbs {
		if w.weight > 0 && !seen[w.verb] {
			t.Errorf("no script has %s", w.verb)
		}
	}
	for _, bad := range []string{"client", "nobody send 0 1", "client fly 0 0", "client send 9 1", "client send 0 -1"} {
		if s, err := Parse(bad); err == nil {
			t.Errorf("%q is read as %v", bad, s)
		}
	}
}

// What matters is left, and nothing else.
func TestShrink(t *testing.T) {
	for seed := range uint64(200) {
		s := Generate(seed)
		matters := []Op{{Client, Abort, 1, 0}, {Server, Send, 2, 9000}}
		for i, op := range matters {
			s = slices.Insert(s, (i+1)*len(s)/3, op)
		}
		tries := 0
		got := Shrink(s, func(s Script) bool {
			tries++
			a, b := -1, -1
			for i, op := range s {
				if op == matters[0] {
					a = i
				}
				if op.End == Server && op.Verb == Send && op.Conn == 2 && op.Arg >= 100 {
					b = i
				}
			}
			return a >= 0 && b > a
		})
		if len(got) != 2 || got[0] != matters[0] || got[1].Arg >= 9000 || got[1].Arg < 100 || tries > 200 {
			t.Fatalf("seed %d, %d tries:\n%s", seed, tries, got)
		}
	}
}
