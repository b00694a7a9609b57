package relayserver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
	"github.com/nodetun/nodetun/relay/iroh1"
)

// serveIroh1 takes the login of a client of iroh 1.x and then serves it.
func (s *Server) serveIroh1(conn *socket, r *http.Request, v visitor) {
	id, err := s.logInIroh1(conn, r, v)
	if err != nil {
		s.logger.Debug("relay login failed", "addr", v.addr, "error", err)
		return
	}
	if !v.inTime() {
		return
	}
	s.count.webSocketAccepts.Add(1)
	s.count.iroh1Accepts.Add(1)
	t := &iroh1Socket{socket: conn, out: iroh1.Encoder{FromServer: true, V2: conn.conn.Subprotocol() == iroh1.SubprotocolV2}}
	newClient(s, id, v, t, true).serve()
}

// logInIroh1 finds out who the client is and tells it how that ended.
func (s *Server) logInIroh1(conn *socket, r *http.Request, v visitor) (identity.NodeID, error) {
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
	if !s.guard.allows(s.shutdown, id, v.token) {
		s.count.loginsDenied.Add(1)
		_ = conn.reply(iroh1.AppendDeny(nil, "not authorized"))
		return identity.NodeID{}, errDenied
	}
	s.remember(id, v)
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

// iroh1Socket is the transport of iroh 1.x.
type iroh1Socket struct {
	*socket
	in  iroh1.Decoder
	out iroh1.Encoder
}

func (s *iroh1Socket) Next() (relay.Type, []byte, error) { return s.in.Next(s.message) }

func (s *iroh1Socket) Write(frames []byte) error {
	ctx, cancel := context.WithTimeout(s.ctx, socketWriteTimeout)
	defer cancel()
	return s.out.Encode(frames, func(m []byte) error { return s.send(ctx, m) })
}
