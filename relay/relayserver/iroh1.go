package relayserver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
	"github.com/nodetun/nodetun/relay/iroh1"
)

// serveIroh1 takes the login of a client of iroh 1.x and then serves it.
func (s *Server) serveIroh1(conn *socket, r *http.Request, addr netip.Addr) {
	id, err := s.logInIroh1(conn, r)
	if err != nil {
		s.logger.Debug("relay login failed", "addr", addr, "error", err)
		return
	}
	s.count.webSocketAccepts.Add(1)
	s.count.iroh1Accepts.Add(1)
	v2 := conn.conn.Subprotocol() == iroh1.SubprotocolV2
	newClient(s, id, addr, &iroh1Socket{socket: conn, v2: v2}, true).serve()
}

// logInIroh1 finds out who the client is and tells it how that ended.
func (s *Server) logInIroh1(conn *socket, r *http.Request) (identity.NodeID, error) {
	late := time.AfterFunc(loginTimeout, conn.Close)
	id, err := s.proveIroh1(conn, r)
	if !late.Stop() {
		err = errors.New("no login in time")
	}
	if err != nil {
		s.count.loginFailures.Add(1)
		if errors.Is(err, iroh1.ErrLogin) {
			_ = conn.reply(iroh1.AppendDeny(nil, "signature invalid"))
		}
		return identity.NodeID{}, err
	}
	if !s.access.allows(id) {
		s.count.loginsDenied.Add(1)
		_ = conn.reply(iroh1.AppendDeny(nil, "not authorized"))
		return identity.NodeID{}, errDenied
	}
	return id, conn.reply(iroh1.AppendConfirm(nil))
}

// proveIroh1 believes the header that is bound to the TLS connection, and asks with
// a challenge when there is none or it is of another connection: a proxy may stand
// in between.
func (s *Server) proveIroh1(conn *socket, r *http.Request) (identity.NodeID, error) {
	if value := r.Header.Get(iroh1.AuthHeader); value != "" && r.TLS != nil {
		auth, err := iroh1.ParseAuthHeader(value)
		if err != nil {
			return identity.NodeID{}, err
		}
		keying, err := r.TLS.ExportKeyingMaterial(iroh1.ExporterLabel, auth.Node[:], iroh1.KeyingLen)
		if err == nil && auth.Verify([iroh1.KeyingLen]byte(keying)) {
			return auth.Node, nil
		}
	}
	var challenge [iroh1.ChallengeLen]byte
	_, _ = rand.Read(challenge[:]) // never fails
	if err := conn.reply(iroh1.AppendChallenge(nil, challenge)); err != nil {
		return identity.NodeID{}, err
	}
	message, err := conn.message()
	if err != nil {
		return identity.NodeID{}, err
	}
	t, body, err := iroh1.Parse(message)
	if err == nil && t != iroh1.TypeClientAuth {
		err = fmt.Errorf("%w: first frame is of type %d", relay.ErrLogin, t)
	}
	if err != nil {
		return identity.NodeID{}, err
	}
	return iroh1.ParseClientAuth(body, challenge)
}

// reply writes one message.
func (s *socket) reply(message []byte) error {
	ctx, cancel := context.WithTimeout(s.ctx, socketWriteTimeout)
	defer cancel()
	return s.send(ctx, message)
}

// iroh1Socket is the transport of iroh 1.x. Its frames become those of version 3 on
// the way in, and the other way round on the way out. What is lost is the ECN field.
type iroh1Socket struct {
	*socket
	v2 bool

	rest  iroh1.Packet // the reader's: not handed out yet
	batch []byte       // the reader's, for one frame
	out   []byte       // the writer's, for one message
}

// Next returns the next frame as one of version 3.
func (s *iroh1Socket) Next() (relay.Type, []byte, error) {
	for {
		s.batch = append(s.batch[:0], s.rest.Node[:]...)
		var ok bool
		if s.batch, ok = s.rest.NextBatch(s.batch); ok {
			return relay.TypeSendPacket, s.batch, nil
		}
		message, err := s.message()
		if err != nil {
			return 0, nil, err
		}
		t, body, err := iroh1.Parse(message)
		if err != nil {
			return 0, nil, err
		}
		switch t {
		case iroh1.TypeSendDatagram, iroh1.TypeSendBatch:
			if s.rest, err = iroh1.ParsePacket(t, body); err != nil {
				return 0, nil, err
			}
		case iroh1.TypePing:
			return relay.TypePing, body, nil
		case iroh1.TypePong:
			return relay.TypePong, body, nil
		default:
			return 0, nil, fmt.Errorf("%w: %d from a client", iroh1.ErrUnknownType, t)
		}
	}
}

// Write writes frames of version 3.
func (s *iroh1Socket) Write(frames []byte) error {
	ctx, cancel := context.WithTimeout(s.ctx, socketWriteTimeout)
	defer cancel()
	for {
		frame, rest, ok := relay.NextFrame(frames)
		if !ok {
			return nil
		}
		if err := s.writeFrame(ctx, relay.Type(frame[0]), frame[relay.HeaderLen:]); err != nil {
			return err
		}
		frames = rest
	}
}

func (s *iroh1Socket) writeFrame(ctx context.Context, t relay.Type, body []byte) error {
	out := s.out[:0]
	switch t {
	case relay.TypeRecvPacket:
		src, batch, err := relay.ParsePacket(body)
		if err != nil {
			return err
		}
		s.out, err = iroh1.EachPacket(s.out, false, src, batch, func(m []byte) error { return s.send(ctx, m) })
		return err
	case relay.TypePing:
		out = iroh1.AppendPing(out, [8]byte(body))
	case relay.TypePong:
		out = iroh1.AppendPong(out, [8]byte(body))
	case relay.TypePeerGone:
		out = iroh1.AppendEndpointGone(out, identity.NodeID(body))
	case relay.TypeHealth:
		out = s.appendHealth(out, string(body))
	case relay.TypeRestarting:
		out = append(append(out, byte(iroh1.TypeRestarting)), body...)
	}
	if len(out) == 0 { // a KeepAlive, which is not known there
		return nil
	}
	return s.send(ctx, out)
}

// appendHealth says what a text means: since v2 that is a number.
func (s *iroh1Socket) appendHealth(out []byte, text string) []byte {
	switch {
	case !s.v2:
		return iroh1.AppendHealth(out, text)
	case text == healthElsewhere:
		return iroh1.AppendStatus(out, iroh1.StatusSameID)
	case text == healthBack:
		return iroh1.AppendStatus(out, iroh1.StatusHealthy)
	}
	return out
}
