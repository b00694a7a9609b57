package magicsock

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"github.com/nodetun/nodetun/identity"
)

// half makes the datagram of one half.
func half(kind byte, id uint32, data []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{kind}, id), data...)
}

// quicBytes makes n bytes that pass for a QUIC packet.
func quicBytes(n int) []byte {
	b := bytes.Repeat([]byte{7}, n)
	b[0] = 0x43
	return b
}

func TestJoinerPutsHalvesTogether(t *testing.T) {
	now := time.Now()
	whole := quicBytes(1452)
	a, b := half(cutFirst, 9, whole[:726]), half(cutSecond, 9, whole[726:])
	for name, order := range map[string][2][]byte{"in order": {a, b}, "the other way": {b, a}} {
		var j joiner
		if got, ok := j.add(now, identity.NodeID{1}, order[0]); got != nil || !ok {
			t.Errorf("%s: first half: %v, %v", name, got, ok)
		}
		if got, ok := j.add(now, identity.NodeID{1}, order[1]); !bytes.Equal(got, whole) || !ok {
			t.Errorf("%s: joined %d bytes, %v", name, len(got), ok)
		}
		if len(j.waiting) != 0 {
			t.Errorf("%s: %d halves left", name, len(j.waiting))
		}
	}
}

func TestJoinerRefuses(t *testing.T) {
	now, node := time.Now(), identity.NodeID{1}
	tests := []struct {
		name        string
		first, then []byte
		node        identity.NodeID
		after       time.Duration
	}{
		{"two first halves", half(cutFirst, 1, quicBytes(100)), half(cutFirst, 1, quicBytes(100)), node, 0},
		{"another id", half(cutFirst, 1, quicBytes(100)), half(cutSecond, 2, quicBytes(100)), node, 0},
		{"another node", half(cutFirst, 1, quicBytes(100)), half(cutSecond, 1, quicBytes(100)), identity.NodeID{2}, 0},
		{"too late", half(cutFirst, 1, quicBytes(100)), half(cutSecond, 1, quicBytes(100)), node, cutAge + 1},
		{"too much together", half(cutFirst, 1, quicBytes(1400)), half(cutSecond, 1, quicBytes(53)), node, 0},
		{"a half that is too small", half(cutFirst, 1, quicBytes(100)), half(cutSecond, 1, quicBytes(15)), node, 0},
		{"a half that is too large", half(cutFirst, 1, quicBytes(1401)), half(cutSecond, 1, quicBytes(16)), node, 0},
		{"no QUIC", half(cutFirst, 1, bytes.Repeat([]byte{0x20}, 100)), half(cutSecond, 1, quicBytes(100)), node, 0},
		{"a half in halves", half(cutFirst, 1, half(cutFirst, 2, quicBytes(100))), half(cutSecond, 1, quicBytes(100)), node, 0},
		{"disco in halves", half(cutFirst, 1, append([]byte("TS\xf0\x9f\x92\xac"), quicBytes(100)...)), half(cutSecond, 1, quicBytes(100)), node, 0},
		{"nothing but a header", half(cutFirst, 1, nil), half(cutSecond, 1, nil), node, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var j joiner
			if got, _ := j.add(now, node, tt.first); got != nil {
				t.Errorf("the first half alone gave %d bytes", len(got))
			}
			if got, _ := j.add(now.Add(tt.after), tt.node, tt.then); got != nil {
				t.Errorf("joined %d bytes", len(got))
			}
		})
	}
}

// A node that sends first halves only displaces its own, and all nodes
// together take bounded room.
func TestJoinerIsBounded(t *testing.T) {
	now := time.Now()
	var j joiner
	honest := identity.NodeID{0xff}
	j.add(now, honest, half(cutFirst, 1, quicBytes(100)))
	for id := range uint32(1000) {
		j.add(now, identity.NodeID{1}, half(cutFirst, id, quicBytes(1400)))
	}
	if n := len(j.waiting); n != cutPerNode+1 {
		t.Errorf("%d halves wait, want %d", n, cutPerNode+1)
	}
	for n := range 200 {
		for id := range uint32(3) {
			j.add(now, identity.NodeID{2, byte(n)}, half(cutFirst, id, quicBytes(16)))
		}
	}
	if n := len(j.waiting); n > cutInAll {
		t.Errorf("%d halves wait, want at most %d", n, cutInAll)
	}
	if got, ok := j.add(now, honest, half(cutSecond, 1, quicBytes(100))); len(got) != 200 || !ok {
		t.Errorf("the honest node's packet was lost: %d bytes, %v", len(got), ok)
	}
}

func FuzzJoiner(f *testing.F) {
	f.Add([]byte{cutFirst, 0, 0, 0, 1, 0x43}, []byte{cutSecond, 0, 0, 0, 1, 7})
	f.Add(half(cutFirst, 1, quicBytes(100)), half(cutSecond, 1, quicBytes(100)))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		var j joiner
		now := time.Now()
		for _, part := range [][]byte{a, b} {
			whole, _ := j.add(now, identity.NodeID{1}, part)
			if whole != nil && (len(whole) > cutWhole || !classify(whole).isQUIC()) {
				t.Errorf("joined %x", whole)
			}
		}
	})
}
