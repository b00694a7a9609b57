package magicsock

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// segmentOOB is the UDP_SEGMENT message as quic-go writes it.
func segmentOOB(seg uint16) []byte {
	b := make([]byte, unix.CmsgSpace(2))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(b[unix.CmsgLen(0):], seg)
	return b
}
