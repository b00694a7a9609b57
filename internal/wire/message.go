package wire

import (
	"encoding/json"
	"fmt"
	"io"
)

// MessageType is the type of a control message.
type MessageType uint64

// The types of control messages. Those that are not known are skipped.
const (
	TypeHello   MessageType = 1
	TypeFacts   MessageType = 2
	TypeRules   MessageType = 3
	TypeRoutes  MessageType = 4
	TypeJoin    MessageType = 5
	TypeJoined  MessageType = 6
	TypeGoodbye MessageType = 7
	TypePing    MessageType = 8
)

// MaxMessage bounds the body of a control message in bytes.
const MaxMessage = 65536

// Hello is the first message of each side. JSON keys that are not known are
// ignored, here and in every message.
type Hello struct {
	// Version is the program's, for people.
	Version string `json:"version,omitempty"`
	// Instance is 16 random bytes in hex, new at each start.
	Instance string `json:"instance"`
	// Replaces is set by a dialler that had another connection with the receiver
	// up when it began to dial this one.
	Replaces bool `json:"replaces,omitempty"`
	// Features are what the sender understands beyond the minimum.
	Features []string `json:"features,omitempty"`
	// Name is the host name that the sender proposes for itself (S21).
	Name string `json:"name,omitempty"`
	// RecordsIndex is the receiver index of sealed records, 0 for none.
	RecordsIndex uint32 `json:"records_index,omitempty"`
	// SSHHostKeys are lines "type base64" (S23).
	SSHHostKeys []string `json:"ssh_host_keys,omitempty"`
	// MTU is the largest inner packet that the sender takes, in bytes.
	MTU int `json:"mtu,omitempty"`
}

// Rules says what the sender lets the receiver do, such as "tcp/22".
type Rules struct {
	Rules []string `json:"rules"`
	// Until is when they end (RFC 3339), empty for never.
	Until string `json:"until,omitempty"`
}

// Goodbye says why the connection is about to end: shutdown, sleep, replaced.
type Goodbye struct {
	Reason string `json:"reason"`
}

// Ping is a request that is answered with the same message.
type Ping struct {
	Nonce int64 `json:"nonce"`
}

// AppendMessage appends a control message with v as its JSON object.
func AppendMessage(dst []byte, t MessageType, v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return dst, fmt.Errorf("message %d: %w", t, err)
	}
	if len(body) > MaxMessage {
		return dst, fmt.Errorf("message %d: %d bytes, at most %d", t, len(body), MaxMessage)
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
