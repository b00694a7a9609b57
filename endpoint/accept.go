package endpoint

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/quic-go/quic-go"

	"github.com/nodetun/nodetun/identity"
)

// codeNotAuthorised closes connections of nodes that are not admitted.
const codeNotAuthorised = 1

// Accept waits for the next connection of a node that is admitted. Its
// handshake is complete and its identity proved. The error wraps ErrClosed or
// the context's error.
func (e *Endpoint) Accept(ctx context.Context) (*Connection, error) {
	if err := e.awaitReady(ctx); err != nil {
		return nil, fmt.Errorf("accept: %w", err)
	}
	if e.listener == nil {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("accept: %w", ctx.Err())
		case <-e.closed:
			return nil, fmt.Errorf("accept: %w", ErrClosed)
		}
	}
	for {
		conn, err := e.listener.Accept(ctx)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return nil, fmt.Errorf("accept: %w", ctx.Err())
		default:
			e.transportEnded(err)
			return nil, fmt.Errorf("accept: %w", ErrClosed)
		}
		handshakeEnded(conn.Context())
		id, err := e.acceptable(conn)
		if err != nil {
			e.log.Debug("connection refused", "node", id, "err", err)
			_ = conn.CloseWithError(codeNotAuthorised, "not authorised")
			continue
		}
		c, err := e.adopt(conn, id, false)
		if err != nil {
			return nil, fmt.Errorf("accept: %w", err)
		}
		return c, nil
	}
}

// acceptable returns the identity that a dialler proved, and an error if it is
// not welcome. The identity is never read from the address; it must agree with
// it, because all that is sent goes there.
func (e *Endpoint) acceptable(conn *quic.Conn) (identity.NodeID, error) {
	id, err := peerID(conn.ConnectionState().TLS)
	if err != nil {
		return id, err
	}
	if at, ok := e.socket.NodeOf(conn.RemoteAddr()); ok && at != id {
		return id, errors.New("the address belongs to another node")
	}
	if admit := e.cfg.Socket.Admit; admit != nil && !admit(id) {
		return id, errors.New("not admitted")
	}
	return id, nil
}

// maxPendingHandshakes bounds the handshakes of strangers that are under way
// at an endpoint which admits everybody (S6).
const maxPendingHandshakes = 64

// pendingHandshakes counts handshakes that others began.
type pendingHandshakes struct{ n atomic.Int64 }

// pendingKey finds the end of a pending handshake in its context.
type pendingKey struct{}

var errTooManyHandshakes = errors.New("too many handshakes")

// handshakeBegins is called by the transport for each connection that somebody
// dials; an error refuses it. The context ends with the connection.
func (e *Endpoint) handshakeBegins(ctx context.Context, _ *quic.ClientInfo) (context.Context, error) {
	if e.cfg.Socket.Admit != nil {
		return ctx, nil
	}
	if e.pending.n.Add(1) > maxPendingHandshakes {
		e.pending.n.Add(-1)
		return nil, errTooManyHandshakes
	}
	end := sync.OnceFunc(func() { e.pending.n.Add(-1) })
	context.AfterFunc(ctx, end)
	return context.WithValue(ctx, pendingKey{}, end), nil
}

// handshakeEnded says that the connection with this context came up.
func handshakeEnded(ctx context.Context) {
	if end, ok := ctx.Value(pendingKey{}).(func()); ok {
		end()
	}
}
