package relayserver

import (
	"errors"
	"fmt"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
)

// errDenied ends a login of a node that may not use this relay.
var errDenied = errors.New("node is not allowed here")

// logIn reads the login of a client and decides about it. A client that is let
// in is told nothing.
func (s *Server) logIn(conn transport) (identity.NodeID, error) {
	late := time.AfterFunc(loginTimeout, conn.Close)
	t, body, err := conn.Next()
	if !late.Stop() {
		err = errors.New("no login in time")
	}
	if err != nil {
		s.count.loginFailures.Add(1)
		return identity.NodeID{}, err
	}
	if t != relay.TypeClientInfo {
		s.count.loginFailures.Add(1)
		return identity.NodeID{}, fmt.Errorf("%w: first frame is %v", relay.ErrLogin, t)
	}
	id, err := relay.ParseClientInfo(body)
	if err != nil && !errors.Is(err, relay.ErrVersion) {
		s.count.loginFailures.Add(1)
		return identity.NodeID{}, err
	}
	if !s.access.allows(id) {
		s.count.loginsDenied.Add(1)
		deny(conn)
		return identity.NodeID{}, errDenied
	}
	if err != nil {
		s.count.loginFailures.Add(1)
		return identity.NodeID{}, err
	}
	return id, nil
}

// deny tells the client, in iroh's words, and gives it a moment to read them.
func deny(conn transport) {
	timer := time.AfterFunc(lingerTime, conn.Close)
	defer timer.Stop()
	if conn.Write(relay.AppendHealth(nil, "not authenticated")) != nil {
		return
	}
	conn.CloseWrite()
	for {
		if _, _, err := conn.Next(); err != nil {
			return
		}
	}
}
