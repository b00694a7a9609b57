package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ALPN names the protocol in the TLS handshake.
const ALPN = "nodetun/1"

// Kinds of streams.
const (
	StreamControl = 0x01
	StreamFlow    = 0x10
	StreamRequest = 0x11
)

// Codes of RESET_STREAM and STOP_SENDING.
const (
	CodeFlowReset     = 0x10 // the TCP connection was reset
	CodeUnknownStream = 0x11 // a kind that is not known
)

// CloseCode is the application error code that ends a connection.
type CloseCode uint64

// The close codes.
const (
	CloseNormal        CloseCode = 0
	CloseNotAuthorised CloseCode = 1
	CloseProtocol      CloseCode = 2 // the other side broke the protocol
	CloseReplaced      CloseCode = 3 // by another connection of the pair
	CloseShuttingDown  CloseCode = 4
	CloseDenied        CloseCode = 5 // or forgotten
	CloseInternal      CloseCode = 6
)

// ErrProtocol is wrapped by every error that means: the other side broke the
// protocol. Errors of the reader itself are returned as they are.
var ErrProtocol = errors.New("protocol violation")

func violation(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}

// maxVarint is the largest number that fits (RFC 9000 16).
const maxVarint = 1<<62 - 1

// AppendVarint appends a QUIC variable-length integer; v is at most 2^62 - 1.
func AppendVarint(dst []byte, v uint64) []byte {
	switch {
	case v < 1<<6:
		return append(dst, byte(v))
	case v < 1<<14:
		return binary.BigEndian.AppendUint16(dst, uint16(v)|1<<14)
	case v < 1<<30:
		return binary.BigEndian.AppendUint32(dst, uint32(v)|2<<30)
	default:
		return binary.BigEndian.AppendUint64(dst, v&maxVarint|3<<62)
	}
}

// AppendKind appends the kind that begins a stream.
func AppendKind(dst []byte, kind uint64) []byte { return AppendVarint(dst, kind) }

// ReadKind reads the kind of a stream and not a byte more.
func ReadKind(r io.Reader) (uint64, error) { return readVarint(r) }

// readVarint reads a QUIC variable-length integer and not a byte more.
func readVarint(r io.Reader) (uint64, error) {
	var b [8]byte
	if _, err := io.ReadFull(r, b[:1]); err != nil {
		return 0, err
	}
	length := 1 << (b[0] >> 6)
	if _, err := io.ReadFull(r, b[1:length]); err != nil {
		return 0, unexpected(err)
	}
	v := uint64(b[0] & 0x3f)
	for _, next := range b[1:length] {
		v = v<<8 | uint64(next)
	}
	return v, nil
}

// unexpected turns the end of a stream inside a value into what it is.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
