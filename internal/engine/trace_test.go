package engine

import (
	"crypto/rand"
	"net/netip"
	"testing"

	"github.com/nodetun/nodetun/internal/vnet"
)

// Packets that come back through the TUN are noticed, in clear or not, and others that
// pass meanwhile are not taken for them.
func TestInside(t *testing.T) {
	n := startNode(t, nil, nil, testPool)
	from, to := netip.AddrPortFrom(n.table.Self().V4, 4789), netip.MustParseAddrPort("100.100.9.9:4789")
	pass := func(payload []byte) {
		if err := n.host.link.Write(vnet.Header{}, udpPacket(from, to, string(payload))); err != nil {
			t.Error(err)
		}
	}
	random := func(size int) []byte {
		b := make([]byte, size)
		_, _ = rand.Read(b)
		return b
	}
	for _, tc := range []struct {
		name  string
		carry func(b []byte)
		want  bool
	}{
		{"in clear", func(b []byte) { pass(append(random(36), b...)) }, true},
		{"encrypted and filled up", func(b []byte) { pass(random((len(b)+28+15)/16*16 + 32)) }, true},
		{"nothing passes", func([]byte) {}, false},
		{"a call passes", func([]byte) {
			for range 5 {
				pass(random(160))
			}
		}, false},
		{"a download passes", func([]byte) {
			for range 30 {
				pass(random(1200))
			}
		}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := n.engine.Inside(t.Context(), func(b []byte) error { tc.carry(b); return nil })
			if got != tc.want {
				t.Errorf("inside: %v", got)
			}
		})
	}
}

func TestSameGrowth(t *testing.T) {
	rounds := func(list ...[]int) (out []map[int]bool) {
		for _, sizes := range list {
			m := make(map[int]bool)
			for _, d := range sizes {
				m[d] = true
			}
			out = append(out, m)
		}
		return out
	}
	for _, tc := range []struct {
		name string
		in   []map[int]bool
		want bool
	}{
		{"the same", rounds([]int{60}, []int{60}, []int{60}), true},
		{"filled up", rounds([]int{60}, []int{75}, []int{66}), true},
		{"among others", rounds([]int{1, 60, 90}, []int{61, 140}, []int{30, 62}), true},
		{"one round without", rounds([]int{60}, nil, []int{60}), false},
		{"different", rounds([]int{20}, []int{60}, []int{100}), false},
	} {
		if got := sameGrowth(tc.in); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}
