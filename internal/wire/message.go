package wire

import (
	"encoding/json"
	"fmt"
	"io"
)

// MessageType is the type of a control message.
type MessageType uint64

// The types of control messages, each with a struct of its name. Those that are
// not known are skipped; 4 is set aside.
const (
	TypeHello   MessageType = 1 // the first of a control stream
	TypeFacts   MessageType = 2 // on change, and as answer to a request of it
	TypeRules   MessageType = 3
	TypeJoin    MessageType = 5
	TypeJoined  MessageType = 6
	TypeGoodbye MessageType = 7
	TypePing    MessageType = 8 // answered by the same
)

// MaxMessage bounds the body of a control message in bytes.
const MaxMessage = 65536

// AppendMessage appends a control message; v is what becomes a JSON object. On
// an error dst is returned as it was.
func AppendMessage(dst []byte, t MessageType, v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return dst, fmt.Errorf("message %d: %w", t, err)
	}
	switch {
	case len(body) > MaxMessage:
		return dst, fmt.Errorf("message %d: %d bytes, at most %d", t, len(body), MaxMessage)
	case body[0] != '{':
		return dst, fmt.Errorf("message %d: %T is no JSON object", t, v)
	case t > maxVarint:
		return dst, fmt.Errorf("message %d: no such type", uint64(t))
	}
	dst = AppendVarint(dst, uint64(t))
	dst = AppendVarint(dst, uint64(len(body)))
	return append(dst, body...), nil
}

// ReadMessage reads one message, of at most limit bytes, and not a byte more.
// The end of the stream before it is io.EOF; a body that is too long or no
// JSON object wraps ErrProtocol.
func ReadMessage(r io.Reader, limit int) (MessageType, json.RawMessage, error) {
	t, err := readVarint(r)
	if err != nil {
		return 0, nil, err
	}
	length, err := readVarint(r)
	if err != nil {
		return 0, nil, unexpected(err)
	}
	if length > uint64(min(limit, MaxMessage)) {
		return 0, nil, violation("message %d has %d bytes", t, length)
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, unexpected(err)
	}
	if len(body) == 0 || body[0] != '{' || !json.Valid(body) {
		return 0, nil, violation("message %d is no JSON object", t)
	}
	return MessageType(t), body, nil
}
