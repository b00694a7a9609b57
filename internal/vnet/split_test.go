package vnet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

func TestSplit(t *testing.T) {
	tests := []struct {
		name     string
		shape    shape
		limit    int
		segments int
	}{
		{"TCP over IPv4", shape{payload: 60000, gsoSize: 1380, flags: tcpCWR | tcpPSH | tcpFIN | 0x10}, 0, 44},
		{"TCP over IPv6", shape{v6: true, payload: 60000, gsoSize: 1360, options: 12, flags: tcpPSH | 0x10}, 0, 45},
		{"even end", shape{payload: 2760, gsoSize: 1380}, 0, 2},
		{"one segment", shape{payload: 100, gsoSize: 1380}, 0, 1},
		{"no payload", shape{gsoSize: 1380, options: 40}, 0, 1},
		{"tiny segments", shape{payload: 100, gsoSize: 1, options: 40}, 0, 100},
		{"behind a hop-by-hop header", shape{v6: true, extension: 64, payload: 3000, gsoSize: 1000}, 0, 3},
		{"UDP over IPv4", shape{udp: true, payload: 60000, gsoSize: 1200}, 0, 50},
		{"UDP over IPv6", shape{udp: true, v6: true, payload: 2500, gsoSize: 1200}, 0, 3},
		{"longest", shape{v6: true, payload: 65515, gsoSize: 1360}, 0, 49},
		{"TCP cut smaller", shape{payload: 10000, gsoSize: 1380}, 1040, 10},
		{"TCP within the limit", shape{payload: 10000, gsoSize: 1380}, 1420, 8},
		{"UDP within the limit", shape{udp: true, payload: 2400, gsoSize: 1200}, 1228, 2},
		{"not to be cut", shape{payload: 1000}, 1040, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, ip := build(tt.shape)
			whole := bytes.Clone(ip)
			head := len(ip) - tt.shape.payload
			l3 := int(h.CsumStart)
			var payload []byte
			count := 0
			err := Split(h, ip, tt.limit, func(seg []byte) error {
				checkPacket(t, seg, l3, shapeProto(tt.shape))
				if tt.limit > 0 && len(seg) > tt.limit {
					t.Errorf("segment %d has %d bytes", count, len(seg))
				}
				if !tt.shape.v6 && id(seg) != id(whole)+uint16(count) {
					t.Errorf("segment %d has id %#x", count, id(seg))
				}
				if !tt.shape.udp {
					checkTCP(t, seg[l3:], whole[l3:], len(payload), len(payload)+len(seg)-head == tt.shape.payload)
				}
				payload = append(payload, seg[head:]...)
				count++
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if count != tt.segments {
				t.Errorf("%d segments, want %d", count, tt.segments)
			}
			if !bytes.Equal(payload, whole[head:]) {
				t.Error("the payload changed")
			}
		})
	}
}

func shapeProto(s shape) uint8 {
	if s.udp {
		return protoUDP
	}
	return protoTCP
}

// checkTCP compares a segment's header with that of the uncut packet.
func checkTCP(t *testing.T, seg, whole []byte, done int, last bool) {
	t.Helper()
	if got, want := binary.BigEndian.Uint32(seg[4:]), binary.BigEndian.Uint32(whole[4:])+uint32(done); got != want {
		t.Errorf("sequence %#x, want %#x", got, want)
	}
	want := whole[13]
	if !last {
		want &^= tcpFIN | tcpPSH
	}
	if done > 0 {
		want &^= tcpCWR
	}
	if seg[13] != want {
		t.Errorf("flags %#x at %d, want %#x", seg[13], done, want)
	}
	for _, part := range [][2]int{{0, 4}, {8, 13}, {14, 16}, {18, int(whole[12]>>4) * 4}} {
		if !bytes.Equal(seg[part[0]:part[1]], whole[part[0]:part[1]]) {
			t.Errorf("bytes %d to %d of the TCP header changed", part[0], part[1])
		}
	}
}

func TestSplitRefuses(t *testing.T) {
	tests := []struct {
		name  string
		shape shape
		limit int
	}{
		{"UDP datagrams above the limit", shape{udp: true, payload: 2400, gsoSize: 1200}, 1227},
		{"a packet above the limit", shape{payload: 1000}, 1039},
		{"no room for headers", shape{payload: 1000, gsoSize: 100}, 40},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, ip := build(tt.shape)
			before := bytes.Clone(ip)
			err := Split(h, ip, tt.limit, func([]byte) error { t.Error("emitted"); return nil })
			if !errors.Is(err, ErrTooBig) {
				t.Errorf("got %v", err)
			}
			if !bytes.Equal(ip, before) {
				t.Error("the packet changed")
			}
		})
	}
}

func TestSplitStopsAtError(t *testing.T) {
	h, ip := build(shape{payload: 5000, gsoSize: 1000})
	stop, count := errors.New("stop"), 0
	if err := Split(h, ip, 0, func([]byte) error {
		if count++; count == 2 {
			return stop
		}
		return nil
	}); !errors.Is(err, stop) || count != 2 {
		t.Errorf("%d segments, %v", count, err)
	}
}

func TestSplitDoesNotAllocate(t *testing.T) {
	for _, s := range []shape{{payload: 1000}, {payload: 60000, gsoSize: 1380}, {v6: true, udp: true, payload: 9000, gsoSize: 1200}} {
		h, ip := build(s)
		total := 0
		emit := func(seg []byte) error { total += len(seg); return nil }
		whole := bytes.Clone(ip)
		if n := testing.AllocsPerRun(50, func() {
			copy(ip, whole)
			if err := Split(h, ip, 0, emit); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%+v: %v allocations", s, n)
		}
	}
}

func BenchmarkSplit(b *testing.B) {
	for _, bb := range []struct {
		name  string
		shape shape
	}{
		{"TCPv4", shape{payload: 60000, gsoSize: 1380}},
		{"TCPv6", shape{v6: true, payload: 60000, gsoSize: 1360}},
		{"UDP", shape{udp: true, payload: 60000, gsoSize: 1200}},
		{"single", shape{payload: 1380}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			h, ip := build(bb.shape)
			head := bytes.Clone(ip[:h.HdrLen])
			emit := func([]byte) error { return nil }
			b.SetBytes(int64(len(ip)))
			b.ReportAllocs()
			for b.Loop() {
				copy(ip, head)
				if err := Split(h, ip, 0, emit); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
