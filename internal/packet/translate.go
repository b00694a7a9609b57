package packet

import (
	"encoding/binary"
	"net/netip"
)

// TranslateV4 gives an IPv4 packet another source and destination, in place:
// header checksum and, where the packet holds the field, the checksum of TCP or
// UDP are adjusted (RFC 1624), never recomputed, so that damage on the way
// stays visible. In an ICMP error the quoted packet is translated too (S17):
// whatever there equals the old source or destination becomes the new one.
//
// The packet is one that Parse accepts; an error means it was left alone.
func TranslateV4(ip []byte, src, dst netip.Addr) error {
	if !src.Is4() || !dst.Is4() {
		return ErrVersion
	}
	i, err := Parse(ip)
	if err != nil {
		return err
	}
	if i.Version != 4 {
		return ErrVersion
	}
	t := translation{oldSrc: i.Src.As4(), oldDst: i.Dst.As4(), newSrc: src.As4(), newDst: dst.As4()}
	if IsICMPError(i) {
		t.quoted(ip[i.L4:])
	}
	t.header(ip)
	if i.FragOffset == 0 {
		t.layer4(ip, i.Proto, i.L4)
	}
	copy(ip[12:], t.newSrc[:])
	copy(ip[16:], t.newDst[:])
	return nil
}

// translation is a change of two addresses.
type translation struct{ oldSrc, oldDst, newSrc, newDst [4]byte }

// change maps one address of a quoted packet.
func (t *translation) change(a [4]byte) [4]byte {
	switch a {
	case t.oldSrc:
		return t.newSrc
	case t.oldDst:
		return t.newDst
	default:
		return a
	}
}

// header adjusts the checksum of the IPv4 header.
func (t *translation) header(ip []byte) {
	field := ip[10:12]
	c := adjust(binary.BigEndian.Uint16(field), t.oldSrc[:], t.newSrc[:])
	binary.BigEndian.PutUint16(field, adjust(c, t.oldDst[:], t.newDst[:]))
}

// layer4 adjusts the checksum of TCP or UDP, which covers the addresses, if
// the packet is long enough to hold it.
func (t *translation) layer4(ip []byte, proto uint8, l4 int) {
	at := checksumAt(proto)
	if at == 0 || len(ip) < l4+at+2 {
		return
	}
	field := ip[l4+at : l4+at+2]
	old := binary.BigEndian.Uint16(field)
	if proto == protoUDP && old == 0 {
		return // the sender gave none (RFC 768)
	}
	c := adjust(adjust(old, t.oldSrc[:], t.newSrc[:]), t.oldDst[:], t.newDst[:])
	if proto == protoUDP && c == 0 {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(field, c)
}

// checksumAt is the offset of the checksum field in an upper-layer header that
// covers the addresses, 0 for all others.
func checksumAt(proto uint8) int {
	switch proto {
	case protoTCP:
		return 16
	case protoUDP:
		return 6
	default:
		return 0
	}
}

// quoted translates the packet inside an ICMP error; icmp begins at the ICMP
// header, whose checksum follows every changed byte.
func (t *translation) quoted(icmp []byte) {
	if len(icmp) < 8+ipv4Len {
		return
	}
	inner := icmp[8:]
	header := int(inner[0]&0x0f) * 4
	if inner[0]>>4 != 4 || header < ipv4Len || len(inner) < header {
		return
	}
	was := translation{oldSrc: [4]byte(inner[12:]), oldDst: [4]byte(inner[16:])}
	was.newSrc, was.newDst = t.change(was.oldSrc), t.change(was.oldDst)

	// The quoted headers, up to the end of what may change: all of it is even.
	end := min(len(inner), header+18) &^ 1
	var before [60 + 18]byte
	copy(before[:], inner[:end])
	was.header(inner)
	if binary.BigEndian.Uint16(inner[6:])&0x1fff == 0 {
		was.layer4(inner[:end], inner[9], header)
	}
	copy(inner[12:], was.newSrc[:])
	copy(inner[16:], was.newDst[:])
	field := icmp[2:4]
	binary.BigEndian.PutUint16(field, adjust(binary.BigEndian.Uint16(field), before[:end], inner[:end]))
}
