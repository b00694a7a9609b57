package vnet

import "encoding/binary"

// Flags of TCP that belong to one segment only.
const (
	tcpFIN = 0x01
	tcpPSH = 0x08
	tcpCWR = 0x80
)

// Split calls emit with every segment of a packet, in order, each complete
// with lengths, IPv4 identification, sequence number, flags and checksums. A
// packet that is one segment already gets its checksum finished and is emitted
// as it is.
//
// limit is the longest segment in bytes, zero for none. TCP is cut smaller to
// keep to it; what may not be cut, because its borders mean something, is
// refused with ErrTooBig before anything is emitted.
//
// The header is checked as Check does. Split works in place and allocates
// nothing: it overwrites ip, seg is a part of ip and valid until emit returns.
// An error of emit ends Split and is returned.
func Split(h Header, ip []byte, limit int, emit func(seg []byte) error) error {
	if err := h.Check(ip); err != nil {
		return err
	}
	if !h.Segments() {
		if limit > 0 && len(ip) > limit {
			return ErrTooBig
		}
		Finish(h, ip)
		return emit(ip)
	}
	c := cutter{l3: int(h.CsumStart), size: int(h.GSOSize), proto: protoTCP}
	if h.GSOType == GSOUDP {
		c.proto = protoUDP
	}
	c.head = c.l3 + transportLen(ip[c.l3:], c.proto)
	if limit > 0 && c.head+min(c.size, len(ip)-c.head) > limit {
		if c.proto == protoUDP || limit <= c.head {
			return ErrTooBig
		}
		c.size = limit - c.head
	}
	copy(c.original[:], ip[:c.head])
	return c.cut(ip, emit)
}

// cutter cuts one packet in place. The headers of a segment are written right
// before its payload, over payload that was emitted before.
type cutter struct {
	// original holds the first head bytes of the uncut packet.
	original [maxHeaders]byte
	// l3 is the offset of the L4 header, head that of the payload.
	l3, head int
	// size is the payload of a segment in bytes.
	size  int
	proto uint8
}

// cut emits the segments of ip. A packet without payload is one segment.
func (c *cutter) cut(ip []byte, emit func(seg []byte) error) error {
	payload := len(ip) - c.head
	for index, done := 0, 0; ; index++ {
		n := min(c.size, payload-done)
		seg := ip[done : done+c.head+n]
		copy(seg, c.original[:c.head])
		c.network(seg, index)
		if c.proto == protoUDP {
			c.udp(seg)
		} else {
			c.tcp(seg, done, done+n == payload)
		}
		if err := emit(seg); err != nil {
			return err
		}
		if done += n; done == payload {
			return nil
		}
	}
}

// network sets the length, and for IPv4 identification and header checksum.
func (c *cutter) network(seg []byte, index int) {
	if seg[0]>>4 == 6 {
		binary.BigEndian.PutUint16(seg[4:], uint16(len(seg)-40))
		return
	}
	binary.BigEndian.PutUint16(seg[2:], uint16(len(seg)))
	binary.BigEndian.PutUint16(seg[4:], binary.BigEndian.Uint16(c.original[4:])+uint16(index))
	binary.BigEndian.PutUint16(seg[10:], 0)
	binary.BigEndian.PutUint16(seg[10:], ^fold(sum(seg[:c.l3], 0)))
}

// tcp sets sequence number, flags and checksum. FIN and PSH stay with the last
// segment, CWR with the first (RFC 3168 section 6.1.2).
func (c *cutter) tcp(seg []byte, done int, last bool) {
	l4 := seg[c.l3:]
	binary.BigEndian.PutUint32(l4[4:], binary.BigEndian.Uint32(c.original[c.l3+4:])+uint32(done))
	if !last {
		l4[13] &^= tcpFIN | tcpPSH
	}
	if done > 0 {
		l4[13] &^= tcpCWR
	}
	binary.BigEndian.PutUint16(l4[csumOffsetTCP:], 0)
	binary.BigEndian.PutUint16(l4[csumOffsetTCP:], ^fold(sum(l4, pseudo(seg, protoTCP, len(l4)))))
}

// udp sets length and checksum.
func (c *cutter) udp(seg []byte) {
	l4 := seg[c.l3:]
	binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
	binary.BigEndian.PutUint16(l4[csumOffsetUDP:], 0)
	check := ^fold(sum(l4, pseudo(seg, protoUDP, len(l4))))
	if check == 0 {
		check = 0xffff
	}
	binary.BigEndian.PutUint16(l4[csumOffsetUDP:], check)
}
