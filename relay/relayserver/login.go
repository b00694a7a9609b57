package relayserver

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
)

// errDenied ends a login of a node that may not use this relay.
var errDenied = errors.New("node is not allowed here")

// errReplayable ends a login that somebody else may have seen.
var errReplayable = errors.New("this login could be a replay")

// logIn reads the login of a client and decides about it; fresh says that it
// answered the challenge. A client that is let in is told nothing.
func (s *Server) logIn(conn transport, v visitor) (id identity.NodeID, fresh bool, err error) {
	late := time.AfterFunc(loginTimeout, conn.Close)
	t, body, err := conn.Next()
	if !late.Stop() {
		err = errors.New("no login in time")
	}
	if err == nil && t != relay.TypeClientInfo {
		err = fmt.Errorf("%w: first frame is %v", relay.ErrLogin, t)
	}
	if err == nil {
		id, fresh, err = relay.ParseClientInfo(body, v.challenge)
	}
	switch {
	case err != nil && !errors.Is(err, relay.ErrVersion):
		s.count.loginFailures.Add(1)
		return identity.NodeID{}, false, err
	case !s.guard.allows(s.shutdown, id, v.token):
		s.count.loginsDenied.Add(1)
		deny(conn, "not authenticated")
		return identity.NodeID{}, false, errDenied
	case err != nil:
		s.count.loginFailures.Add(1)
		return identity.NodeID{}, false, err
	case !fresh && (s.cfg.RequireChallenge || s.proven.has(id)):
		s.count.loginsReplayable.Add(1)
		deny(conn, v.challengeWanted())
		return identity.NodeID{}, false, errReplayable
	}
	if fresh {
		s.remember(id, v)
	}
	return id, fresh, nil
}

// remember has a node that proved itself get in no other way from now on (S2).
func (s *Server) remember(id identity.NodeID, v visitor) {
	if err := s.proven.add(id, v.addr, time.Now()); err != nil {
		s.logger.Warn("a node that proved itself cannot be remembered", "error", err)
	}
}

// challengeWanted says what keeps a node from answering a challenge.
func (v *visitor) challengeWanted() string {
	host, _, err := net.SplitHostPort(v.unknown)
	if err != nil || len(host) > 253 {
		return "this relay wants its challenge answered"
	}
	host = identity.Clean(host, 253)
	return fmt.Sprintf("this relay does not know that it is called %s: start it with --host %s", host, host)
}

// deny tells the client, where iroh has words in these, and gives it a moment to
// read them.
func deny(conn transport, why string) {
	timer := time.AfterFunc(lingerTime, conn.Close)
	defer timer.Stop()
	if conn.Write(relay.AppendHealth(nil, why)) != nil {
		return
	}
	conn.CloseWrite()
	for {
		if _, _, err := conn.Next(); err != nil {
			return
		}
	}
}
