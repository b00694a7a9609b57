package wire

import (
	"encoding/binary"
	"io"
	"net/netip"
	"unicode/utf8"
)

// FlowHeader opens a TCP flow: who calls whom.
type FlowHeader struct {
	// V4 says that the flow is of IPv4.
	V4 bool
	// Src and Dst: zero is the overlay address of the opener or the acceptor.
	Src, Dst netip.Addr
	// SrcPort is the caller's, which the acceptor uses too if it is free.
	SrcPort, DstPort uint16
}

// Flags of a flow header.
const (
	flowV4  = 1 << 0
	flowSrc = 1 << 1
	flowDst = 1 << 2
)

// AppendFlowHeader appends the stream kind and the header. Addresses must be of
// the family that V4 says.
func AppendFlowHeader(dst []byte, h FlowHeader) []byte {
	var flags byte
	if h.V4 {
		flags |= flowV4
	}
	if h.Src.IsValid() {
		flags |= flowSrc
	}
	if h.Dst.IsValid() {
		flags |= flowDst
	}
	dst = append(AppendKind(dst, StreamFlow), flags)
	dst = appendAddr(dst, h.Src, h.V4)
	dst = binary.BigEndian.AppendUint16(dst, h.SrcPort)
	dst = appendAddr(dst, h.Dst, h.V4)
	return binary.BigEndian.AppendUint16(dst, h.DstPort)
}

// appendAddr appends an address in the length of its family, nothing for the
// zero one.
func appendAddr(dst []byte, a netip.Addr, v4 bool) []byte {
	if !a.IsValid() {
		return dst
	}
	b := a.As16()
	if v4 {
		return append(dst, b[12:]...)
	}
	return append(dst, b[:]...)
}

// ReadFlowHeader reads the header after the kind, and not a byte more.
func ReadFlowHeader(r io.Reader) (FlowHeader, error) {
	var flags [1]byte
	if _, err := io.ReadFull(r, flags[:]); err != nil {
		return FlowHeader{}, unexpected(err)
	}
	if flags[0]&^(flowV4|flowSrc|flowDst) != 0 {
		return FlowHeader{}, violation("flow flags %#x", flags[0])
	}
	h := FlowHeader{V4: flags[0]&flowV4 != 0}
	var err error
	if h.Src, h.SrcPort, err = readEnd(r, h.V4, flags[0]&flowSrc != 0); err != nil {
		return FlowHeader{}, err
	}
	if h.Dst, h.DstPort, err = readEnd(r, h.V4, flags[0]&flowDst != 0); err != nil {
		return FlowHeader{}, err
	}
	return h, nil
}

// readEnd reads an address, if it is explicit, and a port.
func readEnd(r io.Reader, v4, explicit bool) (netip.Addr, uint16, error) {
	var b [18]byte
	length := 0
	switch {
	case explicit && v4:
		length = 4
	case explicit:
		length = 16
	}
	if _, err := io.ReadFull(r, b[:length+2]); err != nil {
		return netip.Addr{}, 0, unexpected(err)
	}
	addr, _ := netip.AddrFromSlice(b[:length])
	return addr, binary.BigEndian.Uint16(b[length:]), nil
}

// Status is the answer to the opening of a flow. Numbers without a name may come
// from newer nodes; they mean the same as StatusOther.
type Status uint8

// The statuses of a flow.
const (
	StatusOK              Status = 0
	StatusRefused         Status = 1
	StatusTimeout         Status = 2
	StatusHostUnreachable Status = 3
	StatusNetUnreachable  Status = 4
	StatusDenied          Status = 5
	StatusTooManyFlows    Status = 6
	StatusOther           Status = 255
)

// String words the status for people.
func (s Status) String() string {
	switch s {
	case StatusOK:
		return "ok"
	case StatusRefused:
		return "connection refused"
	case StatusTimeout:
		return "timed out"
	case StatusHostUnreachable:
		return "host unreachable"
	case StatusNetUnreachable:
		return "network unreachable"
	case StatusDenied:
		return "denied"
	case StatusTooManyFlows:
		return "too many flows"
	default:
		return "failed"
	}
}

// Answer is what the acceptor says to a flow header. After a status other than
// StatusOK no byte follows.
type Answer struct {
	Status Status
	// Reason is for people; at most 256 bytes travel.
	Reason string
}

// maxReason bounds the reason of an answer in bytes.
const maxReason = 256

// AppendAnswer appends an answer.
func AppendAnswer(dst []byte, a Answer) []byte {
	reason := cutText(a.Reason, maxReason)
	dst = append(dst, byte(a.Status))
	dst = AppendVarint(dst, uint64(len(reason)))
	return append(dst, reason...)
}

// cutText shortens text to at most limit bytes, between two runes.
func cutText(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}

// ReadAnswer reads an answer and not a byte more. The reason comes from the
// other side: show it cleaned (S22).
func ReadAnswer(r io.Reader) (Answer, error) {
	var status [1]byte
	if _, err := io.ReadFull(r, status[:]); err != nil {
		return Answer{}, err
	}
	length, err := readVarint(r)
	if err != nil {
		return Answer{}, unexpected(err)
	}
	if length > maxReason {
		return Answer{}, violation("a reason of %d bytes", length)
	}
	reason := make([]byte, length)
	if _, err := io.ReadFull(r, reason); err != nil {
		return Answer{}, unexpected(err)
	}
	return Answer{Status: Status(status[0]), Reason: string(reason)}, nil
}
