package udpconn

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	ecnMask = 0x3
	// sendOOBSize holds a segment size and an ECN message.
	sendOOBSize = 64
	// recvOOBSize holds the ones that we asked for, and packet info, which
	// quic-go switches on when the local address is unspecified.
	recvOOBSize = 128
)

// appendHeader appends an empty control message of size bytes and returns its
// body besides the longer slice.
func appendHeader(b []byte, level, typ, size int) (whole, body []byte) {
	start := len(b)
	var zero [32]byte
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

// ParseControl reads the control messages of a send or a receive: the segment
// size (0 if there is none) and the type of service or traffic class byte.
// Other messages, and what follows a malformed one, are skipped.
func ParseControl(oob []byte) (seg int, tos uint8) {
	for len(oob) >= unix.CmsgLen(0) {
		h, body, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return seg, tos
		}
		oob = rest
		switch {
		case h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_SEGMENT && len(body) >= 2:
			seg = int(binary.NativeEndian.Uint16(body))
		case h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO && len(body) >= 4:
			seg = int(int32(binary.NativeEndian.Uint32(body)))
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_TOS && len(body) >= 1:
			tos = body[0]
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_TCLASS && len(body) >= 4:
			tos = uint8(binary.NativeEndian.Uint32(body))
		}
	}
	return max(seg, 0), tos
}
