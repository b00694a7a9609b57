package packet

import (
	"encoding/binary"
	"net/netip"
)

// Code says why a packet goes nowhere.
type Code uint8

// The reasons that an ICMP error can give.
const (
	NoRoute         Code = iota // no such destination
	HostUnreachable             // it does not answer
	Prohibited                  // a rule forbids it
	PortUnreachable             // nothing listens there
)

// icmp4 and icmp6 are the codes of "destination unreachable" (RFC 792 with
// RFC 1812 5.2.7.1, RFC 4443 3.1).
var (
	icmp4 = [...]uint8{NoRoute: 0, HostUnreachable: 1, Prohibited: 13, PortUnreachable: 3}
	icmp6 = [...]uint8{NoRoute: 0, HostUnreachable: 3, Prohibited: 1, PortUnreachable: 4}
)

// How much of a packet an error quotes: the whole error has at most 576 bytes
// (RFC 1812 4.3.2.3) or 1280 (RFC 4443 2.4 c).
const (
	maxError4 = 576
	maxError6 = 1280
)

// AppendUnreachable appends an ICMP error about orig, from the given address to
// orig's sender. It returns nil for packets that must not be answered: ICMP
// errors and redirects, later fragments, multicast and what else BadAddr
// refuses, and what does not parse (RFC 1122 3.2.2, RFC 4443 2.4 e).
func AppendUnreachable(dst, orig []byte, code Code, from netip.Addr) []byte {
	if int(code) >= len(icmp4) {
		return nil
	}
	return appendError(dst, orig, from, [2]uint8{3, icmp4[code]}, [2]uint8{1, icmp6[code]}, 0)
}

// AppendTooBig appends "fragmentation needed" or "packet too big" with the MTU
// in bytes; nil as AppendUnreachable.
func AppendTooBig(dst, orig []byte, mtu int, from netip.Addr) []byte {
	return appendError(dst, orig, from, [2]uint8{3, 4}, [2]uint8{2, 0}, uint32(min(max(mtu, 0), maxWhole)))
}

// appendError builds the error: type and code for each version, and the last
// four bytes of the ICMP header.
func appendError(dst, orig []byte, from netip.Addr, v4, v6 [2]uint8, rest uint32) []byte {
	i, err := Parse(orig)
	if err != nil || !mayAnswer(i) || from.BitLen() != i.Src.BitLen() {
		return nil
	}
	header, limit, proto, kind := ipv4Len, maxError4, uint8(protoICMP), v4
	if i.Version == 6 {
		header, limit, proto, kind = ipv6Len, maxError6, protoICMPv6, v6
	}
	quoted := orig[:min(len(orig), limit-header-8)]
	start := len(dst)
	dst = appendHeader(dst, proto, from, i.Src, 8+len(quoted))
	dst = append(dst, kind[0], kind[1], 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, rest)
	dst = append(dst, quoted...)
	ip := dst[start:]
	binary.BigEndian.PutUint16(ip[header+2:], L4Checksum(ip, proto, header))
	return dst
}

// mayAnswer reports whether an ICMP error about the packet may be sent.
func mayAnswer(i Info) bool {
	redirect := i.Version == 6 && i.Proto == protoICMPv6 && i.ICMPType == 137
	return !IsICMPError(i) && !redirect && i.FragOffset == 0 && !BadAddr(i.Src) && !BadAddr(i.Dst)
}

// replyTTL is the hop limit of the packets made here.
const replyTTL = 64

// appendHeader appends an IP header for a payload of the given length.
func appendHeader(dst []byte, proto uint8, src, to netip.Addr, length int) []byte {
	start := len(dst)
	if src.Is4() {
		dst = append(dst, 0x45, 0)
		dst = binary.BigEndian.AppendUint16(dst, uint16(ipv4Len+length))
		dst = append(dst, 0, 0, 0x40, 0, replyTTL, proto, 0, 0) // do not fragment
		dst = append(dst, src.AsSlice()...)
		dst = append(dst, to.AsSlice()...)
		binary.BigEndian.PutUint16(dst[start+10:], Checksum(dst[start:]))
		return dst
	}
	dst = append(dst, 0x60, 0, 0, 0)
	dst = binary.BigEndian.AppendUint16(dst, uint16(length))
	dst = append(dst, proto, replyTTL)
	dst = append(dst, src.AsSlice()...)
	return append(dst, to.AsSlice()...)
}

// TCP flags (RFC 9293 3.1).
const (
	flagFIN = 0x01
	flagSYN = 0x02
	flagRST = 0x04
	flagACK = 0x10
)

// AppendRST appends the reset that answers a TCP segment to no connection
// (RFC 9293 3.10.7.1); nil for resets, fragments, addresses that BadAddr
// refuses, and what is not TCP.
func AppendRST(dst, orig []byte) []byte {
	i, err := Parse(orig)
	if err != nil || i.Proto != protoTCP || i.Fragment || i.TCPFlags&flagRST != 0 || BadAddr(i.Src) || BadAddr(i.Dst) {
		return nil
	}
	segment := orig[i.L4:]
	var seq, ack uint32
	flags := uint8(flagRST)
	if i.TCPFlags&flagACK != 0 {
		seq = binary.BigEndian.Uint32(segment[8:])
	} else {
		length := len(segment) - int(segment[12]>>4)*4
		if i.TCPFlags&flagSYN != 0 {
			length++
		}
		if i.TCPFlags&flagFIN != 0 {
			length++
		}
		ack = binary.BigEndian.Uint32(segment[4:]) + uint32(length)
		flags |= flagACK
	}
	start := len(dst)
	dst = appendHeader(dst, protoTCP, i.Dst, i.Src, tcpLen)
	dst = binary.BigEndian.AppendUint16(dst, i.DstPort)
	dst = binary.BigEndian.AppendUint16(dst, i.SrcPort)
	dst = binary.BigEndian.AppendUint32(dst, seq)
	dst = binary.BigEndian.AppendUint32(dst, ack)
	dst = append(dst, tcpLen/4<<4, flags, 0, 0, 0, 0, 0, 0)
	ip := dst[start:]
	l4 := len(ip) - tcpLen
	binary.BigEndian.PutUint16(ip[l4+16:], L4Checksum(ip, protoTCP, l4))
	return dst
}
