package endpoint

import (
	"context"
	"errors"
	"fmt"

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
		if !e.cfg.Welcomes {
			welcome(conn.Context())
		}
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
