package udpconn

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	ecnMask = 0x3
	// sendOOBSize holds a segment size, an ECN message and packet info.
	sendOOBSize = 96
	// recvOOBSize holds the ones that we asked for.
	recvOOBSize = 128
)

// appendHeader appends an empty control message of size bytes and returns its
// body besides the longer slice.
func appendHeader(b []byte, level, typ, size int) (whole, body []byte) {
	start := len(b)
	var zero [sendOOBSize]byte
	b = append(b, zero[:unix.CmsgSpace(size)]...)
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[start]))
	h.Level, h.Type = int32(level), int32(typ)
	h.SetLen(unix.CmsgLen(size))
	return b, b[start+unix.CmsgLen(0):][:size]
}

// appendSegment appends the UDP_SEGMENT message of udp(7).
func appendSegment(b []byte, seg int) []byte {
	b, body := appendHeader(b, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 2)
	binary.NativeEndian.PutUint16(body, uint16(seg))
	return b
}

// AppendTOS appends a control message that carries the type of service (IPv4)
// or traffic class (IPv6) byte, in the form in which the kernel hands it up
// and takes it.
func AppendTOS(b []byte, tos uint8, is6 bool) []byte {
	if is6 {
		b, body := appendHeader(b, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, 4)
		binary.NativeEndian.PutUint32(body, uint32(tos))
		return b
	}
	b, body := appendHeader(b, unix.IPPROTO_IP, unix.IP_TOS, 1)
	body[0] = tos
	return b
}

// appendSource appends packet info that names the source address: in_pktinfo of ip(7) or
// in6_pktinfo of RFC 3542 6.2, without an interface.
func appendSource(b []byte, from netip.Addr) []byte {
	if from.Is4() {
		b, body := appendHeader(b, unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
		addr := from.As4()
		copy(body[4:], addr[:])
		return b
	}
	b, body := appendHeader(b, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
	addr := from.As16()
	copy(body, addr[:])
	return b
}

// ParseControl reads control messages. Others than those of Control, and what follows a
// malformed one, are skipped.
func ParseControl(oob []byte) (c Control) {
	for len(oob) >= unix.CmsgLen(0) {
		h, body, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return c
		}
		oob = rest
		switch {
		case h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_SEGMENT && len(body) >= 2:
			c.Seg = int(binary.NativeEndian.Uint16(body))
		case h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO && len(body) >= 4:
			c.Seg = max(0, int(int32(binary.NativeEndian.Uint32(body))))
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_TOS && len(body) >= 1:
			c.TOS = body[0]
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_TCLASS && len(body) >= 4:
			c.TOS = uint8(binary.NativeEndian.Uint32(body))
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(body) >= unix.SizeofInet4Pktinfo:
			c.Local = Local{Addr: netip.AddrFrom4([4]byte(body[8:12])), Link: int(int32(binary.NativeEndian.Uint32(body)))}
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(body) >= unix.SizeofInet6Pktinfo:
			c.Local = Local{Addr: netip.AddrFrom16([16]byte(body[:16])), Link: int(int32(binary.NativeEndian.Uint32(body[16:])))}
		}
	}
	return c
}
