package endpoint

import (
	"context"
	"errors"
	"fmt"

	"github.com/quic-go/quic-go"

	"github.com/nodetun/nodetun/identity"
)

// Errors of Connect and Accept.
var (
	// ErrSelf says that the node dialled is this one.
	ErrSelf = errors.New("connecting to ourself is not supported")
	// ErrNoAddress says that nothing of use is known of where the node is.
	ErrNoAddress = errors.New("no address known for this node")
	// ErrNoAnswer says that nothing came back in time.
	ErrNoAnswer = errors.New("no answer")
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
	Kind Kind
	// Code is that of Application or Transport, else 0.
	Code uint64
	// Reason is text of the side that ended it: show it cleaned (S22).
	Reason string
	// Remote: the other side ended it.
	Remote bool
	err    error
}

// cryptoError is added to a TLS alert to make a QUIC code (RFC 9001 4.8).
const cryptoError = 0x100

// Alert returns the TLS alert that ended the handshake, if one did.
func (e CloseError) Alert() (alert uint8, ok bool) {
	if e.Kind != Transport || e.Code&^0xff != cryptoError {
		return 0, false
	}
	return uint8(e.Code), true
}

// Error words the end; what the other side said is cleaned and cut.
func (e CloseError) Error() string {
	by := "by this side"
	if e.Remote {
		by = "by the other side"
	}
	switch e.Kind {
	case Application:
		return withReason(fmt.Sprintf("closed %s with code %d", by, e.Code), e.Reason)
	case Reset:
		return "reset: the other side has restarted"
	case Idle:
		return "idle timeout"
	case Handshake:
		return "the handshake did not end in time"
	case Transport:
		if alert, ok := e.Alert(); ok {
			return withReason(fmt.Sprintf("handshake refused %s with alert %d", by, alert), e.Reason)
		}
		return withReason(fmt.Sprintf("ended %s with QUIC error %#x", by, e.Code), e.Reason)
	default:
		return "connection ended"
	}
}

func withReason(text, reason string) string {
	if reason == "" {
		return text
	}
	return text + ": " + identity.Clean(reason, 120)
}

// Busy reports whether the other side refused to begin a connection (CONNECTION_REFUSED of
// RFC 9000 20.1): it has too many, or was asked too often.
func (e CloseError) Busy() bool {
	return e.Kind == Transport && e.Remote && e.Code == uint64(quic.ConnectionRefused)
}

// Unwrap returns the error that quic-go gave.
func (e CloseError) Unwrap() error { return e.err }

// Cause finds in err what ended a connection; false if err says nothing of it.
func Cause(err error) (CloseError, bool) {
	var (
		closed      CloseError
		application *quic.ApplicationError
		reset       *quic.StatelessResetError
		idle        *quic.IdleTimeoutError
		handshake   *quic.HandshakeTimeoutError
		transport   *quic.TransportError
	)
	switch {
	case errors.As(err, &closed):
		return closed, true
	case errors.As(err, &application):
		return CloseError{
			Kind: Application, Code: uint64(application.ErrorCode), Reason: application.ErrorMessage,
			Remote: application.Remote, err: err,
		}, true
	case errors.As(err, &reset):
		return CloseError{Kind: Reset, Remote: true, err: err}, true
	case errors.As(err, &idle):
		return CloseError{Kind: Idle, err: err}, true
	case errors.As(err, &handshake):
		return CloseError{Kind: Handshake, err: err}, true
	case errors.As(err, &transport):
		return CloseError{
			Kind: Transport, Code: uint64(transport.ErrorCode), Reason: transport.ErrorMessage,
			Remote: transport.Remote, err: err,
		}, true
	default:
		return CloseError{}, false
	}
}

// Stopped reports whether err, of a write, says that the other side reads no more of
// the stream, while what it sends goes on.
func Stopped(err error) bool {
	var stream *quic.StreamError
	return errors.As(err, &stream) && stream.Remote
}

// typed returns err as a CloseError if it is the end of a connection.
func typed(err error) error {
	if closed, ok := Cause(err); ok {
		return closed
	}
	return err
}

// TLS alerts (RFC 8446 6).
const (
	alertHandshakeFailure = 40
	alertNoALPN           = 120
)

// dialError puts the error of a dial into words.
func (e *Endpoint) dialError(ctx context.Context, id identity.NodeID, alpn string, err error) error {
	switch {
	case errors.Is(err, quic.ErrTransportClosed):
		return ErrClosed
	case ctx.Err() != nil:
		return e.silence(id, ctx.Err())
	}
	var own *identityError
	if errors.As(err, &own) {
		return own.err
	}
	closed, ok := Cause(err)
	if !ok {
		return err
	}
	if closed.Kind == Idle || closed.Kind == Handshake {
		return e.silence(id, closed)
	}
	alert, _ := closed.Alert()
	switch {
	case alert == alertNoALPN:
		return fmt.Errorf("%w: %q: %w", ErrALPN, identity.Clean(alpn, 64), closed)
	case alert == alertHandshakeFailure && closed.Remote:
		return fmt.Errorf("%w: %w", ErrRawPublicKeys, closed)
	default:
		return closed
	}
}

// silence adds to the error of a dial that nobody answered what the socket
// knows about it.
func (e *Endpoint) silence(id identity.NodeID, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	if info, ok := e.socket.Remote(id); ok && info.LastError != "" {
		return fmt.Errorf("%w from %s: %s: %w", ErrNoAnswer, id.Short(), info.LastError, err)
	}
	return fmt.Errorf("%w from %s: %w", ErrNoAnswer, id.Short(), err)
}
