package iroh1

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/nodetun/nodetun/identity"
)

// Subprotocols of the WebSocket, the better one first.
const (
	SubprotocolV2 = "iroh-relay-v2"
	SubprotocolV1 = "iroh-relay-v1"
)

// Type is the number of a frame.
type Type uint64

// The types.
const (
	TypeServerChallenge    Type = 0
	TypeClientAuth         Type = 1
	TypeServerConfirmsAuth Type = 2
	TypeServerDeniesAuth   Type = 3
	TypeSendDatagram       Type = 4
	TypeSendBatch          Type = 5
	TypeRecvDatagram       Type = 6
	TypeRecvBatch          Type = 7
	TypeEndpointGone       Type = 8
	TypePing               Type = 9
	TypePong               Type = 10
	TypeHealth             Type = 11
	TypeRestarting         Type = 12
	TypeStatus             Type = 13
)

// Values of Status.
const (
	StatusHealthy     byte = 0
	StatusSameID      byte = 1 // another connection of this node gets the packets
	StatusRateLimited byte = 2
)

// Sizes, in bytes.
const (
	// MaxMessage is the longest message that is read.
	MaxMessage = 1 << 20
	// maxBody is the longest body after the type that is accepted.
	maxBody = 64 << 10
	// packetHead and batchHead stand before the contents of a packet.
	packetHead = 32 + 1
	batchHead  = packetHead + 2
	// MaxDatagram and MaxBatch are the longest contents that may be sent: type and
	// body together have to stay within 64 KiB. A server of iroh accepts one byte
	// more and then drops the receiver over it.
	MaxDatagram = maxBody - 1 - packetHead
	MaxBatch    = maxBody - 1 - batchHead
	maxText     = 16 << 10
)

// What may be wrong with a frame. Each ends the connection.
var (
	// ErrUnknownType is returned for a type that is not in the table.
	ErrUnknownType = errors.New("unknown relay frame type")
	// ErrMalformed is returned for a body that its type does not allow.
	ErrMalformed = errors.New("malformed relay frame")
)

// Parse reads one message. The body is a part of b, of a length that is legal for
// the type.
func Parse(b []byte) (t Type, body []byte, err error) {
	if len(b) == 0 {
		return 0, nil, fmt.Errorf("%w: empty message", ErrMalformed)
	}
	n := 1 << (b[0] >> 6)
	if len(b) < n {
		return 0, nil, fmt.Errorf("%w: type cut short", ErrMalformed)
	}
	number := uint64(b[0] & 0x3f)
	for _, c := range b[1:n] {
		number = number<<8 | uint64(c)
	}
	t, body = Type(number), b[n:]
	return t, body, t.check(len(body))
}

// check reports what is wrong with a body of n bytes.
func (t Type) check(n int) error {
	least, most := 0, 0
	switch t {
	case TypeServerChallenge:
		least, most = ChallengeLen, ChallengeLen+maxText // trailing bytes are legal here
	case TypeClientAuth:
		least, most = clientAuthLen, clientAuthLen+maxText
	case TypeServerConfirmsAuth:
		most = maxText
	case TypeServerDeniesAuth:
		least, most = 1, maxText
	case TypeSendDatagram, TypeRecvDatagram:
		least, most = packetHead, maxBody
	case TypeSendBatch, TypeRecvBatch:
		least, most = batchHead, maxBody
	case TypeEndpointGone:
		least, most = 32, 32
	case TypePing, TypePong, TypeRestarting:
		least, most = 8, 8
	case TypeHealth:
		most = maxText
	case TypeStatus:
		least, most = 1, maxText // a later version may say more
	default:
		return fmt.Errorf("%w: %d", ErrUnknownType, uint64(t))
	}
	if n < least || n > most {
		return fmt.Errorf("%w: type %d of %d bytes", ErrMalformed, uint64(t), n)
	}
	return nil
}

// Packet is the contents of a packet frame, to or from a node.
type Packet struct {
	Node identity.NodeID
	// ECN is the field of the IP header (RFC 3168): 0 none, 1 ECT(1), 2 ECT(0), 3 CE.
	ECN uint8
	// Datagrams stand one behind the other, each Segment bytes long, the last one
	// shorter; Segment is 0 for a single one.
	Datagrams []byte
	Segment   int
}

// ParsePacket reads the body of one of the four packet types, which Parse has
// checked. The datagrams are a part of it.
func ParsePacket(t Type, body []byte) (Packet, error) {
	if len(body) < packetHead || t.check(len(body)) != nil {
		return Packet{}, fmt.Errorf("%w: packet of %d bytes", ErrMalformed, len(body))
	}
	p := Packet{Node: identity.NodeID(body[:32]), ECN: body[32] & 3, Datagrams: body[packetHead:]}
	if t == TypeSendBatch || t == TypeRecvBatch {
		p.Segment = int(binary.BigEndian.Uint16(body[packetHead:]))
		p.Datagrams = body[batchHead:]
	}
	return p, nil
}

// Next takes the first datagram off a packet; false when there is none.
func (p *Packet) Next() ([]byte, bool) {
	n := len(p.Datagrams)
	if n == 0 {
		return nil, false
	}
	if p.Segment > 0 {
		n = min(n, p.Segment)
	}
	d := p.Datagrams[:n]
	p.Datagrams = p.Datagrams[n:]
	return d, true
}

// AppendPacket appends a packet of a client (send) or of a server. It holds at
// least one byte, at most MaxDatagram or MaxBatch of them.
func AppendPacket(dst []byte, send bool, p Packet) []byte {
	single, batch := TypeRecvDatagram, TypeRecvBatch
	if send {
		single, batch = TypeSendDatagram, TypeSendBatch
	}
	if p.Segment == 0 || p.Segment >= len(p.Datagrams) {
		dst = append(dst, byte(single))
		dst = append(dst, p.Node[:]...)
		dst = append(dst, p.ECN&3)
		return append(dst, p.Datagrams...)
	}
	dst = append(dst, byte(batch))
	dst = append(dst, p.Node[:]...)
	dst = append(dst, p.ECN&3)
	dst = binary.BigEndian.AppendUint16(dst, uint16(p.Segment))
	return append(dst, p.Datagrams...)
}

// AppendEndpointGone appends the notice that a node has left.
func AppendEndpointGone(dst []byte, id identity.NodeID) []byte {
	return append(append(dst, byte(TypeEndpointGone)), id[:]...)
}

// AppendPing appends a ping.
func AppendPing(dst []byte, data [8]byte) []byte {
	return append(append(dst, byte(TypePing)), data[:]...)
}

// AppendPong appends the answer to a ping.
func AppendPong(dst []byte, data [8]byte) []byte {
	return append(append(dst, byte(TypePong)), data[:]...)
}

// AppendHealth appends a text; for v1.
func AppendHealth(dst []byte, text string) []byte {
	return append(append(dst, byte(TypeHealth)), text[:min(len(text), maxText)]...)
}

// AppendStatus appends a status; for v2.
func AppendStatus(dst []byte, status byte) []byte { return append(dst, byte(TypeStatus), status) }

// AppendRestarting tells clients to come back: in reconnectIn, for tryFor, both in
// milliseconds.
func AppendRestarting(dst []byte, reconnectIn, tryFor uint32) []byte {
	dst = binary.BigEndian.AppendUint32(append(dst, byte(TypeRestarting)), reconnectIn)
	return binary.BigEndian.AppendUint32(dst, tryFor)
}
