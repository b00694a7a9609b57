package config

import (
	"errors"
	"strings"
	"testing"

	"github.com/nodetun/nodetun/identity"
)

func TestFindPeer(t *testing.T) {
	a, b := newID(t), newID(t)
	for a.String()[0] == b.String()[0] || a.Hex()[0] == b.Hex()[0] {
		b = newID(t)
	}
	twin := a // differs from a behind the first ten characters only
	twin[31] ^= 1
	peers := []Peer{{ID: a, Name: "nas"}, {ID: b, Name: "Laptop"}}
	for _, tc := range []struct {
		text string
		want int
		err  error
	}{
		{a.String(), 0, nil},
		{strings.ToUpper(b.String()), 1, nil},
		{b.Hex(), 1, nil},
		{"nas", 0, nil},
		{"LAPTOP", 1, nil},
		{"nas.node.internal", 0, nil},
		{"nas.node.internal.", 0, nil},
		{b.String() + ".node.internal", 1, nil},
		{b.String()[:4], 1, nil},
		{b.Hex()[:8], 1, nil},
		{b.String()[:3], -1, ErrNoPeer},
		{"", -1, ErrNoPeer},
		{"na", -1, ErrNoPeer},
		{"other", -1, ErrNoPeer},
		{newID(t).String(), -1, ErrNoPeer},
	} {
		got, err := FindPeer(peers, tc.text, "node.internal")
		if got != tc.want || !errors.Is(err, tc.err) {
			t.Errorf("%q: %d, %v; want %d, %v", tc.text, got, err, tc.want, tc.err)
		}
	}
	two := []Peer{{ID: a}, {ID: twin}}
	if _, err := FindPeer(two, a.String()[:10], "node.internal"); !errors.Is(err, ErrAmbiguous) {
		t.Errorf("a prefix of two: %v", err)
	}
	if i, err := FindPeer(two, twin.Hex(), "node.internal"); err == nil && i != 1 {
		t.Errorf("the whole id: %d, %v", i, err)
	}
}

func TestLabel(t *testing.T) {
	id := newID(t)
	if got := (Peer{ID: id, Name: "nas"}).Label(); got != "nas" {
		t.Errorf("label %q", got)
	}
	if got := (Peer{ID: id}).Label(); got != id.Short() || identity.Clean(got, 99) != got {
		t.Errorf("label %q", got)
	}
}

// One name of two peers is judged where names are used, not here: it must not
// make the whole file unreadable.
func TestPeersKeepDoubleNames(t *testing.T) {
	f := NewPeers(t.TempDir())
	_, err := f.Edit(func(l []Peer) ([]Peer, error) {
		return append(l, Peer{ID: newID(t), Name: "nas"}, Peer{ID: newID(t), Name: "nas"}), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := f.Load(); err != nil || len(got) != 2 {
		t.Errorf("got %v, %v", got, err)
	}
}
