package vnet

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

func TestSum(t *testing.T) {
	// RFC 1071 section 3.
	if got := fold(sum([]byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}, 0)); got != 0xddf2 {
		t.Errorf("example of RFC 1071: %#x", got)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, 4096)
	for n := range 300 {
		for i := range data[:n] {
			data[i] = byte(rng.Uint32())
			if n%3 == 0 {
				data[i] = 0xff
			}
		}
		if got, want := fold(sum(data[:n], 0xfffff)), slowSum(data[:n], uint32(fold(0xfffff))); got != want && got+want != 0xffff {
			t.Errorf("%d bytes: %#x, want %#x", n, got, want)
		}
	}
}

func TestFinish(t *testing.T) {
	for _, s := range []shape{
		{},
		{payload: 1},
		{payload: 1400},
		{v6: true, payload: 77},
		{udp: true, payload: 512},
		{v6: true, udp: true, payload: 3},
		{v6: true, extension: 24, payload: 5},
	} {
		h, ip := build(s)
		if ChecksumValid(ip) {
			t.Errorf("%+v: valid before it was finished", s)
		}
		Finish(h, ip)
		proto := uint8(protoTCP)
		if s.udp {
			proto = protoUDP
		}
		checkPacket(t, ip, int(h.CsumStart), proto)
		if !ChecksumValid(ip) {
			t.Errorf("%+v: not valid after it was finished", s)
		}
		before := string(ip)
		if Finish(Header{}, ip); string(ip) != before {
			t.Errorf("%+v: changed without being asked", s)
		}
		ip[len(ip)-1] ^= 1
		if ChecksumValid(ip) {
			t.Errorf("%+v: a changed byte went unnoticed", s)
		}
	}
}

// A checksum that comes out as zero must not look like "no checksum" (S17).
func TestFinishNeverZero(t *testing.T) {
	h, ip := build(shape{udp: true, payload: 2})
	// The payload is chosen so that everything adds up to ffff.
	clear(ip[28:30])
	binary.BigEndian.PutUint16(ip[28:], ^fold(sum(ip[h.CsumStart:], 0)))
	Finish(h, ip)
	if got := binary.BigEndian.Uint16(ip[26:]); got != 0xffff {
		t.Errorf("checksum %#x, want ffff", got)
	}
	if !ChecksumValid(ip) {
		t.Error("not valid")
	}
}

func TestChecksumValid(t *testing.T) {
	whole := func(s shape) []byte {
		h, ip := build(s)
		Finish(h, ip)
		return ip
	}
	noUDPSum := func(v6 bool) []byte {
		_, ip := build(shape{udp: true, v6: v6, payload: 9})
		l3 := len(ip) - 17
		clear(ip[l3+6 : l3+8])
		return ip
	}
	tests := []struct {
		name string
		ip   []byte
		want bool
	}{
		{"UDP over IPv4 without checksum", noUDPSum(false), true},
		{"UDP over IPv6 without checksum", noUDPSum(true), false},
		{"padded", append(whole(shape{payload: 9}), 1, 2, 3), true},
		{"cut off", whole(shape{payload: 9})[:40], false},
		{"fragment", func() []byte { ip := whole(shape{payload: 9}); ip[7] = 1; return ip }(), false},
		{"ICMP", func() []byte { ip := whole(shape{payload: 9}); ip[9] = 1; return ip }(), false},
		{"nothing", nil, false},
	}
	for _, tt := range tests {
		if got := ChecksumValid(tt.ip); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

func BenchmarkFinish(b *testing.B) {
	for _, s := range []shape{{payload: 1380}, {payload: 60000}} {
		h, ip := build(s)
		b.Run("", func(b *testing.B) {
			b.SetBytes(int64(len(ip)))
			b.ReportAllocs()
			for b.Loop() {
				Finish(h, ip)
			}
		})
	}
}
