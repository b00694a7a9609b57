package wire

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/nodetun/nodetun/internal/packet"
)

// Kinds of datagrams, their first byte.
const (
	KindIPv6       = 0x00 // an IPv6 packet, addresses implied
	KindIPv4       = 0x01 // an IPv4 packet, addresses implied
	KindWhole      = 0x02 // a whole IP packet
	KindFirstHalf  = 0x08 // the beginning of a datagram that was too large
	KindSecondHalf = 0x09 // its end
	KindPing       = 0x20
	KindPong       = 0x21
)

// Ends are the overlay addresses of the two ends of a connection as this host
// sees them. Local4 and Remote4 are both zero when IPv4 is off.
type Ends struct {
	Local6, Remote6 netip.Addr
	Local4, Remote4 netip.Addr
}

// v4 reports whether IPv4 is on.
func (e *Ends) v4() bool { return e.Local4.Is4() && e.Remote4.Is4() }

// Errors of datagrams. They are values and come unwrapped, so that a packet
// that goes no further costs no allocation; those of internal/packet, about an
// IPv4 packet that cannot be translated, come as they are.
var (
	ErrDatagram = errors.New("wire: malformed datagram")
	ErrNoIPv4   = errors.New("wire: IPv4 is off on this side")
	// ErrAddress says that an IPv4 address stands for something else on the
	// wire, or for nothing there (S17).
	ErrAddress = errors.New("wire: address of the other view")
)

// wireSender and wireReceiver stand for the two ends in IPv4 on the wire (S17).
var (
	wireSender   = netip.AddrFrom4([4]byte{0, 0, 0, 1})
	wireReceiver = netip.AddrFrom4([4]byte{0, 0, 0, 2})
)

// Header lengths in bytes.
const (
	ipv6Header = 40
	ipv4Header = 20
	compact6   = 4
	compact4   = 8
)

// AppendPacket appends the datagram that carries an IP packet of this host:
// compact when both addresses are those of the two ends, else whole. IPv4
// overlay addresses are rewritten to their form on the wire. ip is not changed
// and must not overlap dst; on an error dst is returned as it was.
func AppendPacket(dst, ip []byte, e *Ends) ([]byte, error) {
	if len(ip) == 0 {
		return dst, ErrDatagram
	}
	switch ip[0] >> 4 {
	case 6:
		return append6(dst, ip, e)
	case 4:
		return append4(dst, ip, e)
	default:
		return dst, ErrDatagram
	}
}

func append6(dst, ip []byte, e *Ends) ([]byte, error) {
	if !whole6(ip) {
		return dst, ErrDatagram
	}
	src, to := netip.AddrFrom16([16]byte(ip[8:])), netip.AddrFrom16([16]byte(ip[24:]))
	if src != e.Local6 || to != e.Remote6 {
		return append(append(dst, KindWhole), ip...), nil
	}
	class := ip[0]<<4 | ip[1]>>4
	dst = append(dst, KindIPv6, class, ip[7], ip[6])
	return append(dst, ip[ipv6Header:]...), nil
}

// whole6 reports whether the bytes are one IPv6 packet of the length that its
// header tells.
func whole6(ip []byte) bool {
	return len(ip) >= ipv6Header && int(binary.BigEndian.Uint16(ip[4:]))+ipv6Header == len(ip)
}

func append4(dst, ip []byte, e *Ends) ([]byte, error) {
	if !e.v4() {
		return dst, ErrNoIPv4
	}
	if len(ip) < ipv4Header {
		return dst, ErrDatagram
	}
	src, to := netip.AddrFrom4([4]byte(ip[12:])), netip.AddrFrom4([4]byte(ip[16:]))
	wireSrc, ok1 := exchange(src, e.Local4, wireSender, e.Remote4, wireReceiver)
	wireTo, ok2 := exchange(to, e.Local4, wireSender, e.Remote4, wireReceiver)
	if !ok1 || !ok2 {
		return dst, ErrAddress
	}
	compact := wireSrc == wireSender && wireTo == wireReceiver && ip[0] == 0x45
	if compact && packet.Checksum(ip[:ipv4Header]) != 0 {
		return dst, ErrDatagram // the receiver would make a new checksum and hide the damage
	}
	start := len(dst)
	dst = append(append(dst, KindWhole), ip...)
	if err := packet.TranslateV4(dst[start+1:], wireSrc, wireTo); err != nil {
		return dst[:start], err
	}
	if !compact {
		return dst, nil
	}
	// Both implied and no options: the eight bytes that are left of the header
	// move up to the payload.
	whole := dst[start+1:]
	header := [compact4]byte{KindIPv4, whole[1], whole[8], whole[9], whole[4], whole[5], whole[6], whole[7]}
	dst = append(dst[:start], header[:]...)
	return append(dst, whole[ipv4Header:]...), nil
}

// exchange maps an address from one view to the other: a1 becomes b1, a2 becomes
// b2, and others, which are routed ones, stay. Those of the other view mean
// nothing in this one: they give false.
func exchange(a, a1, b1, a2, b2 netip.Addr) (netip.Addr, bool) {
	switch a {
	case a1:
		return b1, true
	case a2:
		return b2, true
	case b1, b2:
		return a, false
	default:
		return a, true
	}
}

// DecodePacket appends the IP packet of a datagram of kind 0x00 to 0x02, in
// this host's own view. b must not overlap dst; on an error dst is returned as
// it was. The result is not judged: source and destination may be anything that
// the sender wrote (S13, S14).
func DecodePacket(dst, b []byte, e *Ends) ([]byte, error) {
	if len(b) == 0 {
		return dst, ErrDatagram
	}
	switch b[0] {
	case KindIPv6:
		return decode6(dst, b, e)
	case KindIPv4:
		return decode4(dst, b, e)
	case KindWhole:
		return decodeWhole(dst, b[1:], e)
	default:
		return dst, ErrDatagram
	}
}

func decode6(dst, b []byte, e *Ends) ([]byte, error) {
	if len(b) < compact6 || len(b)-compact6 > 0xffff {
		return dst, ErrDatagram
	}
	payload := b[compact6:]
	dst = append(dst, 0x60|b[1]>>4, b[1]<<4, 0, 0)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(payload)))
	dst = append(dst, b[3], b[2])
	src, to := e.Remote6.As16(), e.Local6.As16()
	dst = append(dst, src[:]...)
	dst = append(dst, to[:]...)
	return append(dst, payload...), nil
}

func decode4(dst, b []byte, e *Ends) ([]byte, error) {
	if len(b) < compact4 || len(b)-compact4+ipv4Header > 0xffff {
		return dst, ErrDatagram
	}
	payload := b[compact4:]
	start := len(dst)
	dst = append(dst, 0x45, b[1])
	dst = binary.BigEndian.AppendUint16(dst, uint16(ipv4Header+len(payload)))
	dst = append(dst, b[4], b[5], b[6], b[7], b[2], b[3], 0, 0)
	dst = append(dst, 0, 0, 0, 1, 0, 0, 0, 2)
	binary.BigEndian.PutUint16(dst[start+10:], packet.Checksum(dst[start:]))
	dst = append(dst, payload...)
	return translateIn(dst, start, e)
}

func decodeWhole(dst, ip []byte, e *Ends) ([]byte, error) {
	start := len(dst)
	dst = append(dst, ip...)
	switch {
	case len(ip) > 0 && ip[0]>>4 == 6 && whole6(ip):
		return dst, nil
	case len(ip) >= ipv4Header && ip[0]>>4 == 4:
		return translateIn(dst, start, e)
	default:
		return dst[:start], ErrDatagram
	}
}

// translateIn brings the IPv4 packet at dst[start:] into this host's view.
func translateIn(dst []byte, start int, e *Ends) ([]byte, error) {
	if !e.v4() {
		return dst[:start], ErrNoIPv4
	}
	ip := dst[start:]
	src, to := netip.AddrFrom4([4]byte(ip[12:])), netip.AddrFrom4([4]byte(ip[16:]))
	src, ok1 := exchange(src, wireSender, e.Remote4, wireReceiver, e.Local4)
	to, ok2 := exchange(to, wireSender, e.Remote4, wireReceiver, e.Local4)
	if !ok1 || !ok2 {
		return dst[:start], ErrAddress
	}
	if err := packet.TranslateV4(ip, src, to); err != nil {
		return dst[:start], err
	}
	return dst, nil
}

// pingLen is the length of a ping or pong.
const pingLen = 17

// AppendPing appends a tunnel ping or pong with the sender's clock in
// nanoseconds.
func AppendPing(dst []byte, kind byte, nonce, clock uint64) []byte {
	dst = append(dst, kind)
	dst = binary.BigEndian.AppendUint64(dst, nonce)
	return binary.BigEndian.AppendUint64(dst, clock)
}

// ParsePing reads a tunnel ping or pong; kind says which. A pong holds both
// numbers of its ping.
func ParsePing(b []byte) (kind byte, nonce, clock uint64, err error) {
	if len(b) != pingLen || b[0] != KindPing && b[0] != KindPong {
		return 0, 0, 0, ErrDatagram
	}
	return b[0], binary.BigEndian.Uint64(b[1:]), binary.BigEndian.Uint64(b[9:]), nil
}
