package vnet

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// HeaderLen is the length of the encoded header in bytes.
const HeaderLen = 10

// MaxPacket is the longest IP packet, in bytes, that comes with a header: an
// IPv6 header and 65535 bytes behind it. A read buffer that holds HeaderLen
// and MaxPacket bytes is always large enough.
const MaxPacket = 40 + 65535

// Bits of Header.Flags.
const (
	// NeedsCsum says that the L4 checksum is partial: CsumStart and
	// CsumOffset tell what is missing.
	NeedsCsum = 1
	// DataValid says that the kernel has verified the L4 checksum.
	DataValid = 2
)

// Values of Header.GSOType.
const (
	GSONone  = 0
	GSOTCPv4 = 1
	GSOTCPv6 = 4
	GSOUDP   = 5
	// GSOECN is a bit beside GSOTCPv4 and GSOTCPv6: the first segment only
	// may carry CWR.
	GSOECN = 0x80
)

// Offsets of the checksum in L4 headers.
const (
	csumOffsetTCP = 16
	csumOffsetUDP = 6
)

// protocol numbers of IP.
const (
	protoTCP = 6
	protoUDP = 17
)

// Errors of Parse, Check and Split.
var (
	// ErrShort means fewer bytes than a header.
	ErrShort = errors.New("virtio header: too short")
	// ErrBad means that header and packet contradict each other.
	ErrBad = errors.New("virtio header: bad")
	// ErrTooBig means that a segment which may not be cut is longer than the
	// limit given to Split.
	ErrTooBig = errors.New("packet too big")
)

// Header is the virtio-net header. The zero value goes with a complete packet
// that needs nothing.
type Header struct {
	// Flags holds NeedsCsum and DataValid.
	Flags uint8
	// GSOType is one of the GSO constants.
	GSOType uint8
	// HdrLen is the length of the headers in bytes, a hint only.
	HdrLen uint16
	// GSOSize is the payload of a segment in bytes.
	GSOSize uint16
	// CsumStart is the offset of the L4 header in the packet.
	CsumStart uint16
	// CsumOffset is the offset of the checksum in the L4 header.
	CsumOffset uint16
}

// Parse reads the header at the start of b. It returns ErrShort if b is too
// short and looks at no value: that is what Check does.
func Parse(b []byte) (Header, error) {
	if len(b) < HeaderLen {
		return Header{}, ErrShort
	}
	return Header{
		Flags:      b[0],
		GSOType:    b[1],
		HdrLen:     binary.LittleEndian.Uint16(b[2:]),
		GSOSize:    binary.LittleEndian.Uint16(b[4:]),
		CsumStart:  binary.LittleEndian.Uint16(b[6:]),
		CsumOffset: binary.LittleEndian.Uint16(b[8:]),
	}, nil
}

// Append appends the ten bytes of the header to dst.
func (h Header) Append(dst []byte) []byte {
	dst = append(dst, h.Flags, h.GSOType)
	dst = binary.LittleEndian.AppendUint16(dst, h.HdrLen)
	dst = binary.LittleEndian.AppendUint16(dst, h.GSOSize)
	dst = binary.LittleEndian.AppendUint16(dst, h.CsumStart)
	return binary.LittleEndian.AppendUint16(dst, h.CsumOffset)
}

// Put writes the ten bytes of the header to the start of b, which must have
// room for them.
func (h Header) Put(b []byte) {
	h.Append(b[:0:HeaderLen])
}

// Segments reports whether the packet is to be cut into segments.
func (h Header) Segments() bool { return h.GSOType&^GSOECN != GSONone }

// Check compares the header with its packet: every offset and length must lie
// inside it, and the kind of segmentation must be that of the packet (S18). It
// returns an error that wraps ErrBad. A packet that passed is safe to give to
// Finish and Split.
func (h Header) Check(ip []byte) error {
	l3, proto, err := network(ip)
	if err != nil {
		return err
	}
	if int(h.HdrLen) > len(ip) {
		return bad("headers end behind the packet")
	}
	if h.Flags&NeedsCsum != 0 {
		if int(h.CsumStart) < l3 || int(h.CsumStart)+int(h.CsumOffset)+2 > len(ip) {
			return bad("checksum lies outside the packet")
		}
	}
	if !h.Segments() {
		return nil
	}
	return h.checkGSO(ip, l3, proto)
}

// checkGSO checks what concerns segmentation. l3 is the length of the IP
// header with its extension headers, proto what follows it.
func (h Header) checkGSO(ip []byte, l3 int, proto uint8) error {
	v4 := ip[0]>>4 == 4
	switch h.GSOType {
	case GSOTCPv4, GSOTCPv4 | GSOECN:
		if !v4 || proto != protoTCP || h.CsumOffset != csumOffsetTCP {
			return bad("not TCP over IPv4")
		}
	case GSOTCPv6, GSOTCPv6 | GSOECN:
		if v4 || proto != protoTCP || h.CsumOffset != csumOffsetTCP {
			return bad("not TCP over IPv6")
		}
	case GSOUDP:
		if proto != protoUDP || h.CsumOffset != csumOffsetUDP {
			return bad("not UDP")
		}
	default:
		return bad("unknown kind of segmentation")
	}
	if h.Flags&NeedsCsum == 0 || int(h.CsumStart) != l3 {
		return bad("segments without checksum offload")
	}
	if h.GSOSize == 0 {
		return bad("segments without size")
	}
	if l4 := transportLen(ip[l3:], proto); l4 == 0 || l3+l4 > len(ip) || l3+l4 > maxHeaders {
		return bad("headers do not fit")
	}
	if v4 && (int(binary.BigEndian.Uint16(ip[2:])) != len(ip) || binary.BigEndian.Uint16(ip[6:])&0x3fff != 0) {
		return bad("length or fragment")
	}
	if !v4 && int(binary.BigEndian.Uint16(ip[4:]))+40 != len(ip) {
		return bad("length")
	}
	return nil
}

// maxHeaders bounds the headers, in bytes, of a packet that Split cuts: an
// IPv6 header, 256 bytes of extension headers and a TCP header.
const maxHeaders = 40 + 256 + 60

// transportLen is the length of the TCP or UDP header at the start of b, zero
// if it is none.
func transportLen(b []byte, proto uint8) int {
	if proto == protoUDP {
		return 8
	}
	if len(b) < 20 {
		return 0
	}
	if n := int(b[12]>>4) * 4; n >= 20 {
		return n
	}
	return 0
}

// network returns the length of the IP header, extension headers included, and
// the protocol behind it. The chain ends at the first header that is no plain
// extension: a fragment header too, since nothing behind one is offloaded.
func network(ip []byte) (l3 int, proto uint8, err error) {
	if len(ip) < 20 || len(ip) > MaxPacket {
		return 0, 0, bad("length of the packet")
	}
	switch ip[0] >> 4 {
	case 4:
		l3 = int(ip[0]&15) * 4
		if l3 < 20 || l3 > len(ip) {
			return 0, 0, bad("IPv4 header")
		}
		return l3, ip[9], nil
	case 6:
		return network6(ip)
	}
	return 0, 0, bad("IP version")
}

// network6 walks at most eight extension headers of at most 256 bytes (S14):
// hop-by-hop options, routing, destination options.
func network6(ip []byte) (l3 int, proto uint8, err error) {
	if len(ip) < 40 {
		return 0, 0, bad("IPv6 header")
	}
	l3, proto = 40, ip[6]
	for range 8 {
		if proto != 0 && proto != 43 && proto != 60 {
			return l3, proto, nil
		}
		if l3+8 > len(ip) {
			return 0, 0, bad("IPv6 extension header")
		}
		proto, l3 = ip[l3], l3+8+int(ip[l3+1])*8
		if l3 > len(ip) || l3 > 40+256 {
			return 0, 0, bad("IPv6 extension header")
		}
	}
	return 0, 0, bad("too many IPv6 extension headers")
}

// bad wraps ErrBad.
func bad(what string) error { return fmt.Errorf("%w: %s", ErrBad, what) }
