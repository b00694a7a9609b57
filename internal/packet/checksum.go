package packet

import (
	"encoding/binary"
	"math/bits"
)

// sum adds the 16-bit words of b to a running ones' complement sum.
func sum(b []byte, running uint64) uint64 {
	var carry uint64
	for len(b) >= 8 {
		running, carry = bits.Add64(running, binary.BigEndian.Uint64(b), 0)
		running += carry
		b = b[8:]
	}
	var last [8]byte
	copy(last[:], b)
	running, carry = bits.Add64(running, binary.BigEndian.Uint64(last[:]), 0)
	return running + carry
}

// fold brings a running sum to 16 bits.
func fold(s uint64) uint16 {
	s = s>>32 + s&0xffffffff
	s = s>>32 + s&0xffffffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	return uint16(s>>16 + s&0xffff)
}

// Checksum returns the Internet checksum (RFC 1071) of b.
func Checksum(b []byte) uint16 { return ^fold(sum(b, 0)) }

// pseudo returns the running sum of the pseudo-header (RFC 9293 3.1, RFC 8200
// 8.1) of a packet whose upper layer begins at l4.
func pseudo(ip []byte, proto uint8, l4 int) uint64 {
	length := uint64(len(ip) - l4)
	if ip[0]>>4 == 4 {
		return sum(ip[12:20], uint64(proto)+length)
	}
	return sum(ip[8:40], uint64(proto)+length)
}

// L4Checksum returns the checksum that the upper layer of a whole packet should
// carry, given that its checksum field is zero.
func L4Checksum(ip []byte, proto uint8, l4 int) uint16 {
	if ip[0]>>4 == 4 && proto == protoICMP {
		return Checksum(ip[l4:])
	}
	return ^fold(sum(ip[l4:], pseudo(ip, proto, l4)))
}

// adjust returns checksum after the bytes before became after, both of the same
// even length and at an even offset (RFC 1624, equation 3).
func adjust(checksum uint16, before, after []byte) uint16 {
	s := uint64(^checksum)
	for i := 0; i < len(before); i += 2 {
		s += uint64(^binary.BigEndian.Uint16(before[i:])) + uint64(binary.BigEndian.Uint16(after[i:]))
	}
	return ^fold(s)
}
