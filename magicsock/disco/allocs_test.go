//go:build !race

package disco

import (
	"errors"
	"testing"
)

// The race detector makes allocations of its own, so this is not built with it.
func TestAllocations(t *testing.T) {
	a, shared := sharedAB(t)
	for name, m := range messages(t) {
		buf := make([]byte, 0, 2048)
		if n := testing.AllocsPerRun(100, func() { buf = Append(buf[:0], a.NodeID(), &shared, m) }); n != 0 {
			t.Errorf("Append of %s: %v allocations", name, n)
		}
	}
	whole, b := unhex(t, pingPacket), make([]byte, PingLen)
	if n := testing.AllocsPerRun(100, func() {
		copy(b, whole)
		if _, err := Open(&shared, b); err != nil {
			t.Error(err)
		}
	}); n > 1 {
		t.Errorf("Open of a ping: %v allocations, want the message's alone", n)
	}
	if n := testing.AllocsPerRun(100, func() {
		copy(b, whole)
		b[50]++
		if _, err := Open(&shared, b); !errors.Is(err, ErrBox) {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("Open of a forgery: %v allocations", n)
	}
}
