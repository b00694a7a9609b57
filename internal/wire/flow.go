package wire

import (
	"encoding/binary"
	"io"
	"net/netip"
)

// FlowHeader opens a TCP flow. A zero Src or Dst is the overlay address of the
// opener or the acceptor.
type FlowHeader struct {
	V4               bool
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16
}

// Flags of a flow header.
const (
	flowV4  = 1 << 0
	flowSrc = 1 << 1
	flowDst = 1 << 2
)

// AppendFlowHeader appends the stream kind and the header.
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
	dst = append(dst, h.Src.AsSlice()...)
	dst = binary.BigEndian.AppendUint16(dst, h.SrcPort)
	dst = append(dst, h.Dst.AsSlice()...)
	return binary.BigEndian.AppendUint16(dst, h.DstPort)
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

// Status is the answer to the opening of a flow.
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
	reason := a.Reason[:min(len(a.Reason), maxReason)]
	dst = append(dst, byte(a.Status))
	dst = AppendVarint(dst, uint64(len(reason)))
	return append(dst, reason...)
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
