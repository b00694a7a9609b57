package relay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/nodetun/nodetun/identity"
)

// Type is the first byte of a frame.
type Type uint8

// The frame types of protocol version 3. No other number is legal.
const (
	TypeClientInfo    Type = 2
	TypeSendPacket    Type = 4
	TypeRecvPacket    Type = 5
	TypeKeepAlive     Type = 6
	TypeNotePreferred Type = 7
	TypePeerGone      Type = 8
	TypePing          Type = 12
	TypePong          Type = 13
	TypeHealth        Type = 14
	TypeRestarting    Type = 15
)

// Sizes, in bytes.
const (
	// HeaderLen is the length of a frame's header on a stream.
	HeaderLen = 5
	// KeyLen is the length of the key that starts a packet's body.
	KeyLen = 32
	// MaxPayload is the longest payload of a packet that is accepted.
	MaxPayload = 64 << 10
	// MaxBatch is the longest payload that iroh sends and so do we.
	MaxBatch = MaxPayload - KeyLen
	// MaxFrame is the longest frame on a stream.
	MaxFrame = HeaderLen + KeyLen + MaxPayload
	// maxText bounds Health. The protocol would allow 1 MiB; nobody sends it,
	// and it would be the one frame longer than a packet.
	maxText = 16 << 10
	// maxLoginMessage bounds the signed message of ClientInfo, one byte today.
	maxLoginMessage = 64
)

// Texts of Health about another connection with the key of this one.
const (
	HealthElsewhere = "another machine uses this key: packets for it go there"
	HealthBack      = "the other machine with this key has left"
)

// What may be wrong with a frame. Each ends the connection.
var (
	// ErrUnknownType is returned for a type that is not in the table.
	ErrUnknownType = errors.New("unknown relay frame type")
	// ErrBodyLength is returned for a body longer than its type allows, or of
	// another length where the type fixes it.
	ErrBodyLength = errors.New("bad length of a relay frame")
	// ErrMalformed is returned for a body of the right length that says
	// something impossible.
	ErrMalformed = errors.New("malformed relay frame")
)

// String names the type as the protocol does.
func (t Type) String() string {
	switch t {
	case TypeClientInfo:
		return "ClientInfo"
	case TypeSendPacket:
		return "SendPacket"
	case TypeRecvPacket:
		return "RecvPacket"
	case TypeKeepAlive:
		return "KeepAlive"
	case TypeNotePreferred:
		return "NotePreferred"
	case TypePeerGone:
		return "PeerGone"
	case TypePing:
		return "Ping"
	case TypePong:
		return "Pong"
	case TypeHealth:
		return "Health"
	case TypeRestarting:
		return "Restarting"
	default:
		return fmt.Sprintf("frame type %d", uint8(t))
	}
}

// bodyLen tells how short and how long the body of a type may be.
func (t Type) bodyLen() (least, most int, known bool) {
	switch t {
	case TypeClientInfo:
		return loginFixed, loginFixed + maxLoginMessage, true
	case TypeSendPacket, TypeRecvPacket:
		return KeyLen, KeyLen + MaxPayload, true
	case TypeKeepAlive:
		return 0, 0, true
	case TypeNotePreferred:
		return 1, 1, true
	case TypePeerGone:
		return KeyLen, KeyLen, true
	case TypePing, TypePong, TypeRestarting:
		return 8, 8, true
	case TypeHealth:
		return 0, maxText, true
	default:
		return 0, 0, false
	}
}

// check reports what is wrong with a frame of type t and n bytes of body.
func (t Type) check(n int) error {
	least, most, known := t.bodyLen()
	if !known {
		return fmt.Errorf("%w: %d", ErrUnknownType, uint8(t))
	}
	if n < least || n > most {
		return fmt.Errorf("%w: %v of %d bytes", ErrBodyLength, t, n)
	}
	return nil
}

// ParseHeader reads the five bytes before a frame's body. The type is known
// and the length legal for it when err is nil, so the body may be waited for.
// b holds at least HeaderLen bytes.
func ParseHeader(b []byte) (t Type, n int, err error) {
	t = Type(b[0])
	length := binary.BigEndian.Uint32(b[1:HeaderLen])
	if length > 1<<20 {
		return t, 0, fmt.Errorf("%w: %v of %d bytes", ErrBodyLength, t, length)
	}
	return t, int(length), t.check(int(length))
}

// ParseMessage reads the WebSocket form of a frame: one whole binary message.
// The body is a part of b.
func ParseMessage(b []byte) (t Type, body []byte, err error) {
	if len(b) == 0 {
		return 0, nil, fmt.Errorf("%w: empty message", ErrBodyLength)
	}
	t, body = Type(b[0]), b[1:]
	return t, body, t.check(len(body))
}

// NextFrame cuts the first frame off stream bytes that hold only whole frames,
// as those of a Queue do. ok is false when b is empty or cut short.
func NextFrame(b []byte) (frame, rest []byte, ok bool) {
	if len(b) < HeaderLen {
		return nil, b, false
	}
	n := HeaderLen + int(binary.BigEndian.Uint32(b[1:HeaderLen]))
	if n > len(b) {
		return nil, b, false
	}
	return b[:n], b[n:], true
}

// Message turns one frame of the stream form into its WebSocket form in place,
// and so spoils its length field.
func Message(frame []byte) []byte {
	frame[HeaderLen-1] = frame[0]
	return frame[HeaderLen-1:]
}

// AppendFrame appends a frame in the stream form.
func AppendFrame(dst []byte, t Type, body []byte) []byte {
	return append(appendHeader(dst, t, len(body)), body...)
}

func appendHeader(dst []byte, t Type, n int) []byte {
	dst = append(dst, byte(t))
	return binary.BigEndian.AppendUint32(dst, uint32(n))
}

func putHeader(b []byte, t Type, n int) {
	b[0] = byte(t)
	binary.BigEndian.PutUint32(b[1:HeaderLen], uint32(n))
}

// AppendPacket appends a SendPacket (key is the destination) or a RecvPacket
// (key is the source). The payload is a batch of at most MaxPayload bytes.
func AppendPacket(dst []byte, t Type, key identity.NodeID, payload []byte) []byte {
	dst = appendHeader(dst, t, KeyLen+len(payload))
	dst = append(dst, key[:]...)
	return append(dst, payload...)
}

// ParsePacket splits the body of a SendPacket or RecvPacket. The key is not
// checked to be a point: whoever compares it with known keys needs no check.
func ParsePacket(body []byte) (key identity.NodeID, payload []byte, err error) {
	if len(body) < KeyLen {
		return key, nil, ErrBodyLength
	}
	return identity.NodeID(body[:KeyLen]), body[KeyLen:], nil
}

// AppendKeepAlive appends the frame with which a server shows it is alive.
func AppendKeepAlive(dst []byte) []byte { return appendHeader(dst, TypeKeepAlive, 0) }

// AppendNotePreferred appends the frame with which a client says whether this
// relay is its home.
func AppendNotePreferred(dst []byte, home bool) []byte {
	dst = appendHeader(dst, TypeNotePreferred, 1)
	if home {
		return append(dst, 1)
	}
	return append(dst, 0)
}

// ParseNotePreferred reads the body of a NotePreferred.
func ParseNotePreferred(body []byte) (home bool, err error) {
	if len(body) != 1 || body[0] > 1 {
		return false, ErrMalformed
	}
	return body[0] == 1, nil
}

// AppendPeerGone appends the notice that a node has left the relay.
func AppendPeerGone(dst []byte, id identity.NodeID) []byte {
	return AppendFrame(dst, TypePeerGone, id[:])
}

// ParsePeerGone reads the body of a PeerGone.
func ParsePeerGone(body []byte) (identity.NodeID, error) {
	if len(body) != KeyLen {
		return identity.NodeID{}, ErrBodyLength
	}
	return identity.NodeID(body), nil
}

// AppendPing appends a Ping.
func AppendPing(dst []byte, data [8]byte) []byte { return AppendFrame(dst, TypePing, data[:]) }

// AppendPong appends the answer to a Ping with that data.
func AppendPong(dst []byte, data [8]byte) []byte { return AppendFrame(dst, TypePong, data[:]) }

// ParsePing reads the body of a Ping or Pong.
func ParsePing(body []byte) (data [8]byte, err error) {
	if len(body) != len(data) {
		return data, ErrBodyLength
	}
	return [8]byte(body), nil
}

// AppendRestarting tells a client that the server restarts: it is to come back after
// the first time, and to try for the second. Both are whole milliseconds on the wire.
func AppendRestarting(dst []byte, after, tryFor time.Duration) []byte {
	dst = appendHeader(dst, TypeRestarting, 8)
	dst = binary.BigEndian.AppendUint32(dst, uint32(after.Milliseconds()))
	return binary.BigEndian.AppendUint32(dst, uint32(tryFor.Milliseconds()))
}

// ParseRestarting reads the body of a Restarting.
func ParseRestarting(body []byte) (after, tryFor time.Duration, err error) {
	if len(body) != 8 {
		return 0, 0, ErrBodyLength
	}
	after = time.Duration(binary.BigEndian.Uint32(body)) * time.Millisecond
	tryFor = time.Duration(binary.BigEndian.Uint32(body[4:])) * time.Millisecond
	return after, tryFor, nil
}

// AppendHealth appends a text for the people behind the client, cut to the
// longest that is accepted.
func AppendHealth(dst []byte, text string) []byte {
	return AppendFrame(dst, TypeHealth, []byte(text[:min(len(text), maxText)]))
}
