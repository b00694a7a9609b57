package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nodetun/nodetun/endpoint"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/wire"
)

// Limits of a join (S24).
const (
	joinTime = 10 * time.Second // from the connection to the request
	maxJoin  = 1024             // bytes of the request
	maxJoins = 16               // that are served at a time
	// joinLinger is for how long the answer is waited for to arrive.
	joinLinger = 3 * time.Second
)

// Invites is who takes those that are no peers yet. It also has the socket forget them.
type Invites interface {
	// Invited reports whether a node that is no peer is listened to.
	Invited(identity.NodeID) bool
	// Join decides about the one that shows a secret. The node is a peer when it
	// returns an answer that is ok.
	Join(identity.NodeID, wire.Join) wire.Joined
}

// takeJoin serves a node that is no peer: one request, one answer, and the end.
func (e *Engine) takeJoin(conn *endpoint.Connection) {
	defer e.joins.Add(-1)
	if e.joins.Add(1) > maxJoins {
		conn.Close(uint64(wire.CloseNotAuthorised), "not authorised")
		return
	}
	ctx, cancel := context.WithTimeout(e.life, joinTime)
	defer cancel()
	answer, err := e.answerJoin(ctx, conn)
	code, reason := wire.CloseNotAuthorised, "not authorised"
	switch {
	case err != nil:
		e.log.Debug("a node that is no peer did not join", "node", conn.RemoteNodeID(), "err", err)
	case answer.OK:
		code, reason = wire.CloseNormal, ""
		fallthrough
	default: // whoever asked closes when it has read the answer
		select {
		case <-conn.Context().Done():
		case <-time.After(joinLinger):
		case <-e.life.Done():
		}
	}
	conn.Close(uint64(code), reason)
}

func (e *Engine) answerJoin(ctx context.Context, conn *endpoint.Connection) (answer wire.Joined, err error) {
	stream, err := conn.AcceptStream(ctx)
	if err != nil {
		return answer, err
	}
	defer stream.CancelRead(wire.CodeUnknownStream)
	_ = stream.SetDeadline(deadline(ctx))
	kind, err := wire.ReadKind(stream)
	if err != nil {
		return answer, err
	}
	if kind != wire.StreamRequest {
		return answer, fmt.Errorf("%w: a stream of kind %d", wire.ErrProtocol, kind)
	}
	t, body, err := wire.ReadMessage(stream, maxJoin)
	if err != nil {
		return answer, err
	}
	var join wire.Join
	if t != wire.TypeJoin {
		return answer, fmt.Errorf("%w: message %d", wire.ErrProtocol, t)
	}
	if err := json.Unmarshal(body, &join); err != nil {
		return answer, fmt.Errorf("%w: %w", wire.ErrProtocol, err)
	}
	answer = e.cfg.Invites.Join(conn.RemoteNodeID(), join)
	frame, err := wire.AppendMessage(nil, wire.TypeJoined, answer)
	if err != nil {
		return answer, err
	}
	if _, err := stream.Write(frame); err != nil {
		return answer, err
	}
	return answer, stream.Close()
}

// ErrNotTold is returned by Join when the other side ended the connection without an answer.
var ErrNotTold = errors.New("the other side listens to nobody now: the invite was used or has expired, or it was ended there")

// Join shows a secret to the node that made an invite. connected is called when that node is
// reached. An answer that is ok comes also from a node that has this one as a peer already.
func (e *Engine) Join(ctx context.Context, addr identity.NodeAddr, join wire.Join, connected func(*endpoint.Connection)) (wire.Joined, error) {
	conn, err := e.dialer.Dial(ctx, addr, wire.ALPN)
	if err != nil {
		return wire.Joined{}, err
	}
	defer conn.Close(uint64(wire.CloseNormal), "")
	connected(conn)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	ctx, cancel := context.WithTimeout(ctx, joinTime)
	defer cancel()
	type outcome struct {
		joined wire.Joined
		err    error
	}
	outcomes := make(chan outcome, 2)
	tasks.Go(func() {
		joined, err := askJoin(ctx, conn, join)
		outcomes <- outcome{joined, err}
	})
	tasks.Go(func() { // only a peer is sent a hello
		_, err := conn.AcceptUniStream(ctx)
		outcomes <- outcome{wire.Joined{OK: true}, err}
	})
	first := <-outcomes
	if first.err != nil {
		first = <-outcomes
	}
	cause := conn.CloseCause()
	cancel()
	if first.err == nil {
		return first.joined, nil
	}
	if closed, ok := endpoint.Cause(cause); ok && closed.Kind == endpoint.Application && wire.CloseCode(closed.Code) == wire.CloseNotAuthorised {
		return wire.Joined{}, ErrNotTold
	}
	return wire.Joined{}, first.err
}

func askJoin(ctx context.Context, conn *endpoint.Connection, join wire.Join) (joined wire.Joined, err error) {
	stream, err := conn.OpenStream(ctx)
	if err != nil {
		return joined, err
	}
	defer stream.CancelRead(wire.CodeUnknownStream)
	_ = stream.SetDeadline(deadline(ctx))
	frame, err := wire.AppendMessage(wire.AppendKind(nil, wire.StreamRequest), wire.TypeJoin, join)
	if err != nil {
		return joined, err
	}
	if _, err := stream.Write(frame); err != nil {
		return joined, err
	}
	if err := stream.Close(); err != nil {
		return joined, err
	}
	t, body, err := wire.ReadMessage(stream, wire.MaxMessage)
	if err != nil {
		return joined, err
	}
	if t != wire.TypeJoined {
		return joined, fmt.Errorf("%w: message %d answers a join", wire.ErrProtocol, t)
	}
	return joined, json.Unmarshal(body, &joined)
}
