package vnet

import (
	"encoding/binary"
	"math/bits"
)

// sum adds b, as big-endian 16-bit words, to a ones' complement sum (RFC 1071).
// An odd last byte counts as the upper half of a word. The result is folded by
// fold; before that it may be carried on, but only after an even number of bytes.
func sum(b []byte, initial uint64) uint64 {
	acc, carry := initial, uint64(0)
	for len(b) >= 64 {
		c := b[:64:64]
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(c[0:]), 0)
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(c[8:]), carry)
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(c[16:]), carry)
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(c[24:]), carry)
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(c[32:]), carry)
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(c[40:]), carry)
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(c[48:]), carry)
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(c[56:]), carry)
		acc += carry
		b = b[64:]
	}
	for len(b) >= 8 {
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(b), 0)
		acc += carry
		b = b[8:]
	}
	if len(b) == 0 {
		return acc
	}
	var rest [8]byte
	copy(rest[:], b)
	acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(rest[:]), 0)
	return acc + carry
}

// fold reduces a sum to 16 bits, not complemented.
func fold(acc uint64) uint16 {
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>16 + acc&0xffff
	acc = acc>>16 + acc&0xffff
	acc = acc>>16 + acc&0xffff
	return uint16(acc)
}

// pseudo sums the pseudo-header of a packet (RFC 9293 section 3.1, RFC 8200
// section 8.1) whose L4 part has the given protocol and length. ip holds at
// least the fixed IP header.
func pseudo(ip []byte, proto uint8, length int) uint64 {
	acc := uint64(proto) + uint64(length)
	if ip[0]>>4 == 4 {
		return sum(ip[12:20], acc)
	}
	return sum(ip[8:40], acc)
}

// PseudoSum returns what a partial checksum field holds: the folded sum of the
// pseudo-header of a packet whose L4 part has the given protocol and length in
// bytes. ip holds at least the fixed IP header.
func PseudoSum(ip []byte, proto uint8, length int) uint16 {
	return fold(pseudo(ip, proto, length))
}

// Finish completes a partial L4 checksum in place. The header must have passed
// Check; without NeedsCsum nothing happens. A result of zero is stored as ffff,
// which says the same and is no "no checksum" in UDP (S17).
func Finish(h Header, ip []byte) {
	if h.Flags&NeedsCsum == 0 {
		return
	}
	c := ^fold(sum(ip[h.CsumStart:], 0))
	if c == 0 {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(ip[h.CsumStart+h.CsumOffset:], c)
}

// ChecksumValid reports whether the L4 checksum of a whole TCP or UDP packet
// is right. UDP without checksum passes over IPv4 only. Other protocols,
// fragments and malformed packets are reported as not valid.
func ChecksumValid(ip []byte) bool {
	l3, proto, err := network(ip)
	if err != nil {
		return false
	}
	end := 40
	if ip[0]>>4 == 4 {
		if binary.BigEndian.Uint16(ip[6:])&0x3fff != 0 {
			return false
		}
		end = int(binary.BigEndian.Uint16(ip[2:]))
	} else {
		end += int(binary.BigEndian.Uint16(ip[4:]))
	}
	if end < l3 || end > len(ip) {
		return false
	}
	l4 := ip[l3:end]
	switch proto {
	case protoTCP:
		if len(l4) < 20 {
			return false
		}
	case protoUDP:
		if len(l4) < 8 {
			return false
		}
		if binary.BigEndian.Uint16(l4[csumOffsetUDP:]) == 0 {
			return ip[0]>>4 == 4
		}
	default:
		return false
	}
	return fold(sum(l4, pseudo(ip, proto, len(l4)))) == 0xffff
}
