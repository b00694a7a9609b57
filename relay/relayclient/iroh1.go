package relayclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/coder/websocket"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
	"github.com/nodetun/nodetun/relay/iroh1"
)

// ErrRefused is returned by Dial when the relay does not let this node in; trying
// again soon will not help.
var ErrRefused = errors.New("the relay refuses this node")

// openSocket asks for a WebSocket with the protocol of iroh 1.x on a connection and
// logs in. A server that takes none of the subprotocols speaks version 3 there.
func openSocket(ctx context.Context, cfg *Config, conn net.Conn, host string, stamp func()) (*socket, error) {
	dialled := loginHost(cfg)
	header := http.Header{}
	if cfg.byWebSocket { // a relay of nodetun then speaks version 3, with its challenge
		header.Set(relay.LoginHeader, dialled)
	}
	if cfg.Token != "" {
		header.Set("Authorization", "Bearer "+cfg.Token)
	}
	secure, isSecure := conn.(*tls.Conn)
	if isSecure {
		value, err := authHeader(cfg.Key, secure)
		if err != nil {
			return nil, err
		}
		header.Set(iroh1.AuthHeader, value)
	}
	once := func(context.Context, string, string) (net.Conn, error) { return conn, nil }
	u := *cfg.URL.Parsed()
	u.Scheme, u.Host, u.Path = "ws", host, "/relay"
	if isSecure {
		u.Scheme = "wss"
	}
	ws, response, err := websocket.Dial(ctx, u.String(), &websocket.DialOptions{
		Subprotocols: []string{iroh1.SubprotocolV2, iroh1.SubprotocolV1}, HTTPHeader: header,
		HTTPClient: &http.Client{
			Transport:     &http.Transport{DialContext: once, DialTLSContext: once},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	})
	if err != nil {
		if response != nil {
			return nil, statusError(response)
		}
		return nil, fmt.Errorf("%w: %w", ErrUpgrade, err)
	}
	s := newSocket(ws, stamp)
	if s.plain3 {
		login, err := loginFor(response.Header.Values(relay.ChallengeHeader), cfg.Key, dialled)
		if err != nil {
			return nil, err
		}
		return s, s.send(relay.Message(login))
	}
	return s, s.logIn(cfg.Key, isSecure)
}

// authHeader proves this node to whoever is at the end of the TLS connection.
func authHeader(key *identity.SecretKey, conn *tls.Conn) (string, error) {
	id := key.NodeID()
	state := conn.ConnectionState()
	keying, err := state.ExportKeyingMaterial(iroh1.ExporterLabel, id[:], iroh1.KeyingLen)
	if err != nil {
		return "", fmt.Errorf("TLS exporter: %w", err)
	}
	return iroh1.AuthHeaderValue(key, [iroh1.KeyingLen]byte(keying)), nil
}

// logIn answers the server until it has decided. Over TLS a challenge is not
// answered: it may be that of another relay, to which the server would pass our
// answer on (S1).
func (s *socket) logIn(key *identity.SecretKey, secure bool) error {
	for asked := false; ; asked = true {
		m, err := s.message()
		if err != nil {
			return err
		}
		t, body, err := iroh1.Parse(m)
		if err != nil {
			return err
		}
		switch {
		case t == iroh1.TypeServerConfirmsAuth:
			return nil
		case t == iroh1.TypeServerDeniesAuth:
			reason, err := iroh1.ParseDeny(body)
			if err != nil {
				return err
			}
			return fmt.Errorf("%w: %s", ErrRefused, identity.Clean(reason, 200))
		case t == iroh1.TypeServerChallenge && secure:
			return fmt.Errorf("%w: it asks for a login that another relay could use: a proxy may end TLS before it, and it does not know its name (nodetun relay --host)", ErrUpgrade)
		case t == iroh1.TypeServerChallenge && !asked:
			challenge, err := iroh1.ParseChallenge(body)
			if err != nil {
				return err
			}
			if err := s.send(iroh1.AppendClientAuth(nil, key, challenge)); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%w: type %d before the login is over", ErrUnexpected, t)
		}
	}
}
