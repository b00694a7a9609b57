package pairing

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// ALPN is the protocol of the connection on which two machines meet.
const ALPN = "nodetun/pair/1"

// ChannelLabel is that of the 32 bytes, exported from the TLS of the connection, that a
// check is bound to (RFC 8446 7.5).
const ChannelLabel = "EXPORTER-nodetun-pair-1"

var (
	// ErrProtocol is wrapped for what does not follow the protocol.
	ErrProtocol = errors.New("the other side does not follow the protocol")
	// ErrOtherSaysNo says that the other owner saw another check.
	ErrOtherSaysNo = errors.New("the other side said no")
)

// Hello begins a meeting; the package comment says which field comes when.
type Hello struct {
	Name   string `json:"name,omitempty"`
	Commit []byte `json:"commit,omitempty"`
	Nonce  []byte `json:"nonce,omitempty"`
}

// Verdict is what an owner said of the check.
type Verdict struct {
	Same bool `json:"same"`
}

// Offer is an invite of the machine that waited.
type Offer struct {
	Invite string `json:"invite"`
	Error  string `json:"error,omitempty"`
}

// Outcome tells how the caller, whose NodeID is ID, fared with it; an empty Error is well.
type Outcome struct {
	ID    string `json:"id"`
	Error string `json:"error,omitempty"`
}

const (
	maxMessage = 4096
	nonceSize  = 32
)

// Send writes a message.
func Send(w io.Writer, message any) error {
	b, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if len(b) > maxMessage {
		return fmt.Errorf("pairing: a message of %d bytes", len(b))
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	return err
}

// Receive reads a message. Errors wrap ErrProtocol or are those of r.
func Receive[M any](r io.Reader) (message M, err error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return message, err
	}
	n := binary.BigEndian.Uint16(head[:])
	if n > maxMessage {
		return message, fmt.Errorf("%w: a message of %d bytes", ErrProtocol, n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return message, err
	}
	if err := json.Unmarshal(b, &message); err != nil {
		return message, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return message, nil
}

// Call is the caller's side of the hellos: it returns what the other calls itself, to be
// cleaned, and the check that both owners have to see. channel is bound to the connection.
func Call(rw io.ReadWriter, channel []byte, name string) (their, check string, err error) {
	mine := newNonce()
	commit := sha256.Sum256(mine)
	if err := Send(rw, Hello{Name: name, Commit: commit[:]}); err != nil {
		return "", "", err
	}
	hello, err := Receive[Hello](rw)
	if err != nil {
		return "", "", err
	}
	if len(hello.Nonce) != nonceSize {
		return "", "", fmt.Errorf("%w: a nonce of %d bytes", ErrProtocol, len(hello.Nonce))
	}
	if err := Send(rw, Hello{Nonce: mine}); err != nil {
		return "", "", err
	}
	return hello.Name, checkOf(channel, mine, hello.Nonce), nil
}

// Answer is the side of the one that waited.
func Answer(rw io.ReadWriter, channel []byte, name string) (their, check string, err error) {
	first, err := Receive[Hello](rw)
	if err != nil {
		return "", "", err
	}
	mine := newNonce()
	if err := Send(rw, Hello{Name: name, Nonce: mine}); err != nil {
		return "", "", err
	}
	second, err := Receive[Hello](rw)
	if err != nil {
		return "", "", err
	}
	commit := sha256.Sum256(second.Nonce)
	if len(second.Nonce) != nonceSize || subtle.ConstantTimeCompare(commit[:], first.Commit) == 0 {
		return "", "", fmt.Errorf("%w: it did not keep to its nonce", ErrProtocol)
	}
	return first.Name, checkOf(channel, second.Nonce, mine), nil
}

func newNonce() []byte {
	b := make([]byte, nonceSize)
	_, _ = rand.Read(b)
	return b
}

// checkOf makes six digits of what both sides know if nobody stands between them.
func checkOf(channel, caller, waiter []byte) string {
	h := sha256.New()
	h.Write([]byte("nodetun pair check 1"))
	for _, part := range [][]byte{channel, caller, waiter} {
		h.Write(binary.BigEndian.AppendUint16(nil, uint16(len(part))))
		h.Write(part)
	}
	return groups(fmt.Sprintf("%06d", binary.BigEndian.Uint64(h.Sum(nil))%1e6))
}

// Agree tells the other what this owner said, and returns ErrOtherSaysNo if the other's
// did not see the same.
func Agree(rw io.ReadWriter, same bool) error {
	if err := Send(rw, Verdict{same}); err != nil {
		return err
	}
	if !same {
		return nil
	}
	verdict, err := Receive[Verdict](rw)
	if err == nil && !verdict.Same {
		err = ErrOtherSaysNo
	}
	return err
}
