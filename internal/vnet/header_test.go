package vnet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

func TestHeaderBytes(t *testing.T) {
	h := Header{Flags: NeedsCsum, GSOType: GSOTCPv6, HdrLen: 0x0102, GSOSize: 0x0304, CsumStart: 0x0506, CsumOffset: 0x0708}
	want := []byte{1, 4, 2, 1, 4, 3, 6, 5, 8, 7}
	if got := h.Append(nil); !bytes.Equal(got, want) {
		t.Errorf("Append: % x, want % x", got, want)
	}
	buf := bytes.Repeat([]byte{0xee}, HeaderLen+1)
	if h.Put(buf); !bytes.Equal(buf[:HeaderLen], want) || buf[HeaderLen] != 0xee {
		t.Errorf("Put: % x", buf)
	}
	if got, err := Parse(want); err != nil || got != h {
		t.Errorf("Parse: %+v, %v", got, err)
	}
	if _, err := Parse(want[:9]); !errors.Is(err, ErrShort) {
		t.Errorf("Parse of 9 bytes: %v", err)
	}
}

// TestCheck plays the attack of S18: offsets and lengths that point outside
// the packet, and kinds that are not the packet's.
func TestCheck(t *testing.T) {
	tcp4, tcp6 := shape{payload: 3000, gsoSize: 1000}, shape{v6: true, payload: 3000, gsoSize: 1000}
	udp4 := shape{udp: true, payload: 3000, gsoSize: 1000}
	tests := []struct {
		name  string
		shape shape
		spoil func(h *Header, ip *[]byte)
		ok    bool
	}{
		{"TCP over IPv4", tcp4, nil, true},
		{"TCP over IPv6", tcp6, nil, true},
		{"UDP", udp4, nil, true},
		{"UDP over IPv6", shape{v6: true, udp: true, payload: 30, gsoSize: 10}, nil, true},
		{"behind a hop-by-hop header", shape{v6: true, extension: 16, payload: 99, gsoSize: 9}, nil, true},
		{"ECN", tcp4, func(h *Header, _ *[]byte) { h.GSOType |= GSOECN }, true},
		{"nothing asked for", shape{payload: 9}, func(h *Header, _ *[]byte) { *h = Header{} }, true},
		{"checksum only", shape{payload: 9}, nil, true},
		{"empty", tcp4, func(_ *Header, ip *[]byte) { *ip = nil }, false},
		{"too long", shape{}, func(_ *Header, ip *[]byte) { *ip = make([]byte, MaxPacket+1); (*ip)[0] = 0x45 }, false},
		{"version 5", tcp4, func(_ *Header, ip *[]byte) { (*ip)[0] = 0x55 }, false},
		{"IPv4 header too short", tcp4, func(_ *Header, ip *[]byte) { (*ip)[0] = 0x44 }, false},
		{"IPv4 header behind the end", shape{}, func(_ *Header, ip *[]byte) { (*ip)[0] = 0x4f; *ip = (*ip)[:30] }, false},
		{"IPv6 cut off", tcp6, func(_ *Header, ip *[]byte) { *ip = (*ip)[:39] }, false},
		{"hdr_len outside", tcp4, func(h *Header, ip *[]byte) { h.HdrLen = uint16(len(*ip) + 1) }, false},
		{"csum_start outside", shape{payload: 9}, func(h *Header, _ *[]byte) { h.CsumStart = 0xfff0 }, false},
		{"csum_start in the IP header", shape{payload: 9}, func(h *Header, _ *[]byte) { h.CsumStart = 12 }, false},
		{"csum_offset outside", shape{payload: 9}, func(h *Header, _ *[]byte) { h.CsumOffset = 28 }, false},
		{"csum_offset last place", shape{payload: 9}, func(h *Header, _ *[]byte) { h.CsumOffset = 27 }, true},
		{"csum_offset overflows 16 bits", shape{payload: 9}, func(h *Header, _ *[]byte) { h.CsumOffset = 0xffff }, false},
		{"gso_size zero", tcp4, func(h *Header, _ *[]byte) { h.GSOSize = 0 }, false},
		{"gso without checksum", tcp4, func(h *Header, _ *[]byte) { h.Flags = 0 }, false},
		{"gso of the other IP", tcp4, func(h *Header, _ *[]byte) { h.GSOType = GSOTCPv6 }, false},
		{"gso of the other IP, 6", tcp6, func(h *Header, _ *[]byte) { h.GSOType = GSOTCPv4 }, false},
		{"gso of the other protocol", tcp4, func(h *Header, _ *[]byte) { h.GSOType = GSOUDP }, false},
		{"gso of the other protocol, UDP", udp4, func(h *Header, _ *[]byte) { h.GSOType = GSOTCPv4 }, false},
		{"UFO", udp4, func(h *Header, _ *[]byte) { h.GSOType = 3 }, false},
		{"unknown gso", tcp4, func(h *Header, _ *[]byte) { h.GSOType = 77 }, false},
		{"gso checksum elsewhere", tcp4, func(h *Header, _ *[]byte) { h.CsumOffset = 6 }, false},
		{"gso starts elsewhere", tcp4, func(h *Header, _ *[]byte) { h.CsumStart = 24 }, false},
		{"TCP header too short", tcp4, func(_ *Header, ip *[]byte) { (*ip)[32] = 0x40 }, false},
		{"TCP header behind the end", shape{gsoSize: 10}, func(_ *Header, ip *[]byte) { (*ip)[32] = 0xf0 }, false},
		{"length differs", tcp4, func(_ *Header, ip *[]byte) { *ip = append(*ip, 0) }, false},
		{"length differs, 6", tcp6, func(_ *Header, ip *[]byte) { *ip = append(*ip, 0) }, false},
		{"fragment", tcp4, func(_ *Header, ip *[]byte) { (*ip)[6] = 0x20 }, false},
		{"fragment header", tcp6, func(_ *Header, ip *[]byte) { (*ip)[6] = 44 }, false},
		{"nine extension headers", tcp6, func(h *Header, ip *[]byte) {
			(*ip)[6] = 0
			clear((*ip)[40:])
			h.CsumStart = 40 + 8*8
		}, false},
		{"extension header outside", shape{v6: true, extension: 16}, func(_ *Header, ip *[]byte) { (*ip)[41] = 200 }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, ip := build(tt.shape)
			if tt.spoil != nil {
				tt.spoil(&h, &ip)
			}
			err := h.Check(ip)
			if tt.ok && err != nil {
				t.Errorf("refused: %v", err)
			}
			if !tt.ok && !errors.Is(err, ErrBad) {
				t.Errorf("got %v, want ErrBad", err)
			}
		})
	}
}

func TestCheckDoesNotAllocate(t *testing.T) {
	h, ip := build(shape{v6: true, extension: 16, payload: 3000, gsoSize: 1000})
	if n := testing.AllocsPerRun(100, func() {
		if h.Check(ip) != nil {
			t.Fatal("refused")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkCheck(b *testing.B) {
	h, ip := build(shape{v6: true, payload: 60000, gsoSize: 1360})
	b.ReportAllocs()
	for b.Loop() {
		if h.Check(ip) != nil {
			b.Fatal("refused")
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []shape{{payload: 5}, {v6: true, payload: 99, gsoSize: 10}, {udp: true, payload: 99, gsoSize: 10}} {
		h, ip := build(s)
		f.Add(append(h.Append(nil), ip...), uint16(0))
		f.Add(append(h.Append(nil), ip...), uint16(60))
	}
	f.Fuzz(func(t *testing.T, b []byte, limit uint16) {
		h, err := Parse(b)
		if err != nil {
			return
		}
		if again := h.Append(nil); !bytes.Equal(again, b[:HeaderLen]) {
			t.Fatalf("Append(Parse) = % x", again)
		}
		ip := bytes.Clone(b[HeaderLen:])
		checked := h.Check(ip)
		ChecksumValid(ip)
		segments := 0
		err = Split(h, ip, int(limit), func(seg []byte) error {
			segments++
			if limit > 0 && len(seg) > int(limit) {
				t.Fatalf("segment of %d bytes, limit %d", len(seg), limit)
			}
			if h.Segments() {
				checkPacket(t, seg, int(h.CsumStart), segmentProto(h))
			}
			return nil
		})
		if checked != nil && (err == nil || segments > 0) {
			t.Fatalf("split what Check refused: %v", checked)
		}
		if checked == nil && err != nil && !errors.Is(err, ErrTooBig) {
			t.Fatalf("did not split what Check passed: %v", err)
		}
	})
}

func segmentProto(h Header) uint8 {
	if h.GSOType == GSOUDP {
		return protoUDP
	}
	return protoTCP
}

// id is the IPv4 identification.
func id(ip []byte) uint16 { return binary.BigEndian.Uint16(ip[4:]) }
