package endpoint

import (
	"context"
	"errors"
	"fmt"

	"github.com/quic-go/quic-go"
)

// Errors of Connect.
var (
	// ErrSelf says that the node dialled is this one.
	ErrSelf = errors.New("connecting to ourself is not supported")
	// ErrNoAddress says that nothing is known of where the node is.
	ErrNoAddress = errors.New("no address known for this node")
	// ErrClosed says that the endpoint has been closed.
	ErrClosed = errors.New("endpoint closed")
	// ErrALPN says that the other side does not speak the protocol asked for.
	ErrALPN = errors.New("the other side does not speak this protocol")
	// ErrRawPublicKeys says that the peer is iroh 0.34 or newer, whose handshake
	// (RFC 7250) crypto/tls does not have.
	ErrRawPublicKeys = errors.New("peer speaks a newer iroh (raw public keys)")
)

// Kind says what ended a connection.
type Kind int

// The ways in which a connection ends.
const (
	// Application: one side closed it, with Code and Reason.
	Application Kind = iota + 1
	// Reset: a stateless reset (RFC 9000 10.3); the peer has restarted.
	Reset
	// Idle: nothing came for the idle timeout.
	Idle
	// Handshake: it never came up in time.
	Handshake
	// Transport: QUIC or TLS found an error; Code is its code.
	Transport
)

// CloseError says why a connection ended.
type CloseError struct {
	Kind   Kind
	Code   uint64
	Reason string
	// Remote: the other side ended it.
	Remote bool
	err    error
}

// Error returns the text of the error that the connection gave.
func (e CloseError) Error() string { return e.err.Error() }

// Unwrap returns the error that the connection gave.
func (e CloseError) Unwrap() error { return e.err }

// Cause finds in err what ended a connection; false if err says nothing of it.
func Cause(err error) (CloseError, bool) {
	var (
		application *quic.ApplicationError
		reset       *quic.StatelessResetError
		idle        *quic.IdleTimeoutError
		handshake   *quic.HandshakeTimeoutError
		transport   *quic.TransportError
	)
	switch {
	case errors.As(err, &application):
		return CloseError{Kind: Application, Code: uint64(application.ErrorCode), Reason: application.ErrorMessage, Remote: application.Remote, err: err}, true
	case errors.As(err, &reset):
		return CloseError{Kind: Reset, Remote: true, err: err}, true
	case errors.As(err, &idle):
		return CloseError{Kind: Idle, err: err}, true
	case errors.As(err, &handshake):
		return CloseError{Kind: Handshake, err: err}, true
	case errors.As(err, &transport):
		return CloseError{Kind: Transport, Code: uint64(transport.ErrorCode), Reason: transport.ErrorMessage, Remote: transport.Remote, err: err}, true
	default:
		return CloseError{}, false
	}
}

// TLS alerts as QUIC error codes (RFC 9001 4.8).
const (
	alertHandshakeFailure = 0x128
	alertNoALPN           = 0x178
)

// dialError puts the error of a dial into words. Errors of our own checks of
// the certificate come back wrapped.
func dialError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("connect: %w", ctx.Err())
	}
	var transport *quic.TransportError
	if !errors.As(err, &transport) {
		return fmt.Errorf("connect: %w", err)
	}
	switch transport.ErrorCode {
	case alertNoALPN:
		return fmt.Errorf("connect: %w", ErrALPN)
	case alertHandshakeFailure:
		if transport.Remote {
			return fmt.Errorf("connect: %w", ErrRawPublicKeys)
		}
	}
	return fmt.Errorf("connect: %w", err)
}
