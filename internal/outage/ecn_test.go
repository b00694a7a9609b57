package outage

import "testing"

// Packets by another path than the one in use have the mark that those on it have.
func TestECN(t *testing.T) {
	const ce = 3
	short, long := []byte{0x40}, []byte{0xc0}
	var e ECN
	for i, step := range []struct {
		packet []byte
		path   uint16
		ecn    uint8
		want   uint8
	}{
		{short, 1, notECT, notECT}, // nothing is known
		{long, 0, ect0, ect0},
		{short, 1, notECT, notECT}, // handshakes tell nothing
		{short, 0, ect0, ect0},
		{short, 1, notECT, ect0}, // a probe
		{long, 1, notECT, notECT},
		{short, 1, ce, ce},
		{short, 0, ect0, ect0},
		{short, 1, notECT, ect0},
		{short, 1, ect0, ect0}, // QUIC has moved
		{short, 0, notECT, ect0},
		{short, 1, notECT, notECT}, // and gives ECN up
		{short, 0, notECT, notECT},
		{nil, 0, notECT, notECT},
	} {
		if got := e.Mark(step.packet, step.path, step.ecn); got != step.want {
			t.Errorf("step %d: %d, want %d", i, got, step.want)
		}
	}
}
