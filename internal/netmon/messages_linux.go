package netmon

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// matters says that netlink messages may tell of a change that Monitor looks
// for. All do but those about routes that are no default routes of the main
// table: a router that speaks BGP announces thousands a minute. What cannot be
// read matters.
//
// Each message is (netlink(7), rtnetlink(7), in the byte order of the host)
//
//	length u32 | type u16 | flags u16 | sequence u32 | port u32 | body
//
// padded to a multiple of 4, and the body of those about routes begins with
//
//	family u8 | length of destination u8 | of source u8 | TOS u8 | table u8 …
func matters(b []byte) bool {
	for len(b) >= unix.SizeofNlMsghdr {
		length := int(binary.NativeEndian.Uint32(b))
		if length < unix.SizeofNlMsghdr || length > len(b) {
			return true
		}
		if messageMatters(binary.NativeEndian.Uint16(b[4:]), b[unix.SizeofNlMsghdr:length]) {
			return true
		}
		b = b[min((length+3)&^3, len(b)):]
	}
	return len(b) > 0
}

func messageMatters(kind uint16, body []byte) bool {
	if kind != unix.RTM_NEWROUTE && kind != unix.RTM_DELROUTE {
		return true
	}
	if len(body) < unix.SizeofRtMsg {
		return true
	}
	wholeWorld, table := body[1] == 0, body[4]
	return wholeWorld && table == unix.RT_TABLE_MAIN
}
