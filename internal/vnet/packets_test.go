package vnet

import (
	"encoding/binary"
	"testing"
)

// shape describes a packet that build makes.
type shape struct {
	v6, udp bool
	// options is the length of TCP options, extension that of an IPv6
	// hop-by-hop header, both in bytes.
	options, extension int
	payload, gsoSize   int
	flags              uint8
}

// build makes a packet as the kernel hands it over: lengths right, checksum
// partial, payload a counting pattern.
func build(s shape) (Header, []byte) {
	l3, proto, l4 := 20, uint8(protoTCP), 20+s.options
	if s.v6 {
		l3 = 40 + s.extension
	}
	if s.udp {
		proto, l4 = protoUDP, 8
	}
	ip := make([]byte, l3+l4+s.payload)
	if s.v6 {
		ip[0], ip[6], ip[7] = 0x60, proto, 64
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-40))
		for i := range 32 {
			ip[8+i] = byte(0xfd - i)
		}
		if s.extension > 0 {
			ip[6], ip[40], ip[41] = 0, proto, byte(s.extension/8-1)
		}
	} else {
		ip[0], ip[8], ip[9] = 0x45, 64, proto
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		binary.BigEndian.PutUint16(ip[4:], 0xfffe)
		copy(ip[12:], []byte{100, 100, 1, 2, 100, 100, 3, 4})
		binary.BigEndian.PutUint16(ip[10:], ^fold(sum(ip[:20], 0)))
	}
	h := Header{Flags: NeedsCsum, HdrLen: uint16(l3 + l4), CsumStart: uint16(l3), CsumOffset: csumOffsetTCP}
	seg := ip[l3:]
	binary.BigEndian.PutUint16(seg, 40000)
	binary.BigEndian.PutUint16(seg[2:], 22)
	if s.udp {
		h.CsumOffset = csumOffsetUDP
		binary.BigEndian.PutUint16(seg[4:], uint16(len(seg)))
	} else {
		binary.BigEndian.PutUint32(seg[4:], 0xfffffff0)
		seg[12], seg[13] = byte(l4/4)<<4, s.flags
		for i := range s.options {
			seg[20+i] = 1
		}
	}
	binary.BigEndian.PutUint16(seg[h.CsumOffset:], PseudoSum(ip, proto, len(seg)))
	for i := range s.payload {
		seg[l4+i] = byte(i * 7)
	}
	if s.gsoSize > 0 {
		h.GSOSize, h.GSOType = uint16(s.gsoSize), GSOTCPv4
		if s.v6 {
			h.GSOType = GSOTCPv6
		}
		if s.udp {
			h.GSOType = GSOUDP
		}
	}
	return h, ip
}

// slowSum is RFC 1071 word by word.
func slowSum(b []byte, acc uint32) uint16 {
	for i := 0; i < len(b); i += 2 {
		w := uint32(b[i]) << 8
		if i+1 < len(b) {
			w |= uint32(b[i+1])
		}
		acc += w
		acc = acc>>16 + acc&0xffff
	}
	return uint16(acc)
}

// checkPacket verifies lengths and checksums by slowSum.
func checkPacket(t testing.TB, ip []byte, l3 int, proto uint8) {
	t.Helper()
	l4 := ip[l3:]
	pseudo := uint32(proto) + uint32(len(l4))
	if ip[0]>>4 == 4 {
		if got := int(binary.BigEndian.Uint16(ip[2:])); got != len(ip) {
			t.Errorf("total length %d of %d bytes", got, len(ip))
		}
		if got := slowSum(ip[:l3], 0); got != 0xffff {
			t.Errorf("header checksum: sum %#x", got)
		}
		pseudo = uint32(slowSum(ip[12:20], pseudo))
	} else {
		if got := int(binary.BigEndian.Uint16(ip[4:])); got != len(ip)-40 {
			t.Errorf("payload length %d of %d bytes", got, len(ip))
		}
		pseudo = uint32(slowSum(ip[8:40], pseudo))
	}
	if got := slowSum(l4, pseudo); got != 0xffff {
		t.Errorf("L4 checksum: sum %#x", got)
	}
	if proto == protoUDP && int(binary.BigEndian.Uint16(l4[4:])) != len(l4) {
		t.Errorf("UDP length of %d bytes: %d", len(l4), binary.BigEndian.Uint16(l4[4:]))
	}
}
