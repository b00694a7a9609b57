package outage

import (
	"bytes"
	"testing"
)

// Every packet of a batch is marked, the short last one too, and nothing but short
// headers of QUIC.
func TestMark(t *testing.T) {
	b := []byte{0x40, 1, 0x7f, 2, 0xc3, 3, 0x10, 4, 0x55}
	Mark(b, 2)
	if want := []byte{0x00, 1, 0x3f, 2, 0xc3, 3, 0x10, 4, 0x15}; !bytes.Equal(b, want) {
		t.Errorf("% x, want % x", b, want)
	}
}

// What is marked is known by it, and is as before when it is unmarked. Spin and reserved bits
// apart, a short header may have any first byte from 0x40 to 0x5f.
func TestMarked(t *testing.T) {
	for first := 0x40; first < 0x60; first++ {
		b := append([]byte{byte(first)}, make([]byte, minQUIC-1)...)
		if Marked(b) {
			t.Errorf("%#x is marked from the start", first)
		}
		Mark(b, len(b))
		if !Marked(b) || Marked(b[1:]) {
			t.Errorf("%#x is not marked, or a part of it is", first)
		}
		if Unmark(b); b[0] != byte(first) {
			t.Errorf("%#x became %#x", first, b[0])
		}
	}
}
