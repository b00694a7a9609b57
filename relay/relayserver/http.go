package relayserver

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/nodetun/nodetun/internal/webserver"
	"github.com/nodetun/nodetun/relay"
	"github.com/nodetun/nodetun/relay/iroh1"
)

// upgradeProtocol is the value of both Upgrade headers of the plain upgrade.
const upgradeProtocol = "iroh derp http"

// Security headers that every answer of the main handler carries.
const (
	strictTransport = "max-age=63072000; includeSubDomains"
	contentPolicy   = "default-src 'none'; frame-ancestors 'none'; form-action 'none'; base-uri 'self'; block-all-mixed-content; plugin-types 'none'"
)

const indexPage = `<!DOCTYPE html>
<html><head><title>Relay</title></head><body>
<h1>Iroh relay</h1>
<p>This is a relay of <a href="https://github.com/nodetun/nodetun">nodetun</a>. It speaks the relay protocol of iroh-net, version 3.</p>
</body></html>
`

// Handler serves the relay from any HTTP/1.1 server whose connections can be
// hijacked. Close ends the clients it has.
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Strict-Transport-Security", strictTransport)
		h.Set("Content-Security-Policy", contentPolicy)
		if r.Method != http.MethodGet {
			notFound(w)
			return
		}
		switch r.URL.Path {
		case "/relay", "/derp":
			s.serveRelay(w, r)
		case "/relay/probe", "/derp/probe", "/ping":
			h.Set("Access-Control-Allow-Origin", "*")
			w.WriteHeader(http.StatusOK)
		case "/healthz":
			h.Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"status":"ok"}`)
		case "/", "/index.html":
			h.Set("Content-Type", "text/html; charset=utf-8")
			_, _ = io.WriteString(w, indexPage)
		case "/robots.txt":
			h.Set("Content-Type", "text/plain; charset=utf-8")
			_, _ = io.WriteString(w, "User-agent: *\nDisallow: /\n")
		case "/generate_204":
			if s.cfg.secure() {
				notFound(w)
				return
			}
			serveNoContent(w, r)
		default:
			notFound(w)
		}
	})
}

// captiveHandler serves what stands on the HTTP port beside HTTPS: the captive
// portal test, and the certificate authority's.
func (s *Server) captiveHandler() http.Handler {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/generate_204" {
			notFound(w)
			return
		}
		serveNoContent(w, r)
	})
	if s.acme != nil {
		return s.acme.HTTPHandler(h)
	}
	return h
}

func notFound(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusNotFound)
	_, _ = io.WriteString(w, "Not Found")
}

// serveNoContent answers the captive portal test: a portal would answer
// something else, or could not repeat the challenge.
func serveNoContent(w http.ResponseWriter, r *http.Request) {
	for _, vendor := range []string{"X-Tailscale", "X-Iroh"} { // iroh-net's, iroh 1.x's
		if c := r.Header.Get(vendor + "-Challenge"); isChallenge(c) {
			w.Header().Set(vendor+"-Response", "response "+c)
		}
	}
	w.WriteHeader(http.StatusNoContent)
}

func isChallenge(c string) bool {
	if len(c) == 0 || len(c) > 63 {
		return false
	}
	for _, b := range []byte(c) {
		switch {
		case b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b >= '0' && b <= '9', b == '.', b == '_', b == '-':
		default:
			return false
		}
	}
	return true
}

// serveRelay upgrades, and has the client served until it has left.
func (s *Server) serveRelay(w http.ResponseWriter, r *http.Request) {
	upgrade := r.Header.Get("Upgrade")
	if upgrade != upgradeProtocol && upgrade != "websocket" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	raw, _ := r.Context().Value(rawConn{}).(*relay.Conn)
	v := visitor{addr: s.proxies().ClientOf(r), raw: raw, token: tokenOf(r), webSocket: upgrade == "websocket", leave: func() {}, inTime: func() bool { return true }}
	if !s.logins.Allow(v.addr, time.Now()) {
		s.count.loginsLimited.Add(1)
		refuse(w, http.StatusTooManyRequests, "too many logins from this network")
		return
	}
	if place, ok := r.Context().Value(placeConn{}).(*webserver.LimitedConn); ok {
		if place.Over {
			refuse(w, http.StatusServiceUnavailable, tooMany)
			return
		}
		v.inTime = place.Keep
		if s.proxies().Trust(webserver.AddrOf(place.RemoteAddr())) { // it may have been there for others
			place.CloseLater(loginTimeout)
		}
	}
	if s.proxies().Trust(webserver.AddrOf(remoteOf(r))) || len(s.cfg.TrustedProxies) > 0 && raw != nil && s.proxies().Trust(webserver.AddrOf(raw.RemoteAddr())) {
		leave, ok := s.crowd.enter(v.addr)
		if !ok {
			s.count.connsLimited.Add(1)
			refuse(w, http.StatusServiceUnavailable, tooMany)
			return
		}
		v.leave = leave
	}
	if !s.admit() {
		v.leave()
		refuse(w, http.StatusServiceUnavailable, "this relay is about to stop")
		return
	}
	v.challenge, v.unknown = s.challenge(r)
	if v.challenge != nil {
		w.Header().Set(relay.ChallengeHeader, challengeText(v.challenge))
	}
	if !v.webSocket {
		s.serveStream(upgradeStream(w), v)
		return
	}
	defer s.clients.Done()
	defer v.leave()
	offered := subprotocols(r)
	if v.challenge != nil {
		offered = nil // one of nodetun's nodes, by a proxy that knows WebSocket only
	}
	conn := upgradeSocket(w, r, offered)
	switch {
	case conn == nil:
	case len(offered) > 0:
		defer conn.Close()
		s.serveIroh1(conn, r, v)
	default:
		defer conn.Close()
		s.serveConn(conn, v)
	}
}

// serveStream serves a client, nil for none, in a goroutine of its own: that of
// net/http, and all that hangs on it, is as large as the rest of an idle client.
func (s *Server) serveStream(conn transport, v visitor) {
	if conn == nil {
		v.leave()
		s.clients.Done()
		return
	}
	go func() {
		defer s.clients.Done()
		defer v.leave()
		defer conn.Close()
		s.serveConn(conn, v)
	}()
}

// subprotocols returns what the client offers, nil for a client of version 3.
func subprotocols(r *http.Request) []string {
	var list []string
	for name := range strings.SplitSeq(r.Header.Get("Sec-WebSocket-Protocol"), ",") {
		if name = strings.TrimSpace(name); name != "" {
			list = append(list, name)
		}
	}
	return list
}

// remoteOf returns the client's address as net/http knows it.
func remoteOf(r *http.Request) net.Addr { return textAddr(r.RemoteAddr) }

type textAddr string

func (textAddr) Network() string  { return "tcp" }
func (a textAddr) String() string { return string(a) }

// upgradeStream answers the plain upgrade by hand: net/http would not leave the
// connection alone otherwise. It returns nil when there is nothing to serve.
func upgradeStream(w http.ResponseWriter) transport {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return nil
	}
	// A client that does not wait for the answer is none of ours: what it sent
	// may have been meant for someone else on the way.
	if buffered.Reader.Buffered() > 0 {
		_ = conn.Close()
		return nil
	}
	switch conn.(type) {
	case *webserver.LimitedConn, *tls.Conn: // ours, see wrap
	default:
		conn = relay.NewConn(conn, writeStall)
	}
	h := w.Header()
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", upgradeProtocol)
	var head bytes.Buffer
	head.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	_ = h.Write(&head)
	head.WriteString("\r\n")
	if _, err := conn.Write(head.Bytes()); err != nil {
		_ = conn.Close()
		return nil
	}
	return newStream(conn)
}

// upgradeSocket answers the handshake of WebSocket. It returns nil when there
// is nothing to serve. Of the offered subprotocols one has to be ours; without any
// version 3 is spoken.
func upgradeSocket(w http.ResponseWriter, r *http.Request, offered []string) *socket {
	ours := []string{iroh1.SubprotocolV2, iroh1.SubprotocolV1}
	if len(offered) == 0 {
		ours = nil
	}
	switch {
	case r.Header.Get("Sec-WebSocket-Key") == "", r.Header.Get("Sec-WebSocket-Version") == "":
		w.WriteHeader(http.StatusBadRequest)
		return nil
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		w.Header().Set("Sec-WebSocket-Version", "13")
		w.WriteHeader(http.StatusBadRequest)
		return nil
	case len(offered) > 0 && !slices.ContainsFunc(offered, func(name string) bool { return slices.Contains(ours, name) }):
		http.Error(w, "none of the offered subprotocols is known", http.StatusBadRequest)
		return nil
	}
	// A web page of any origin may use a relay: it proves a key of its own,
	// and nothing is granted to a browser's user.
	h := &hijacker{ResponseWriter: w}
	conn, err := websocket.Accept(h, r, &websocket.AcceptOptions{InsecureSkipVerify: true, Subprotocols: ours})
	if err != nil {
		return nil
	}
	return newSocket(conn, h.conn)
}

// visitor is what a request to upgrade told about the client.
type visitor struct {
	addr      netip.Addr
	raw       *relay.Conn      // the socket, if it is one of ours
	token     string           // empty: none
	challenge *relay.Challenge // what it was asked to answer, nil for nothing
	unknown   string           // the name by which it dialled, if that is none of ours
	webSocket bool
	leave     func()      // called once when it has left
	inTime    func() bool // called once after the login: false if the connection is over
}

// tooMany is told to who comes when a limit of connections is reached.
const tooMany = "too many connections from this network"

// refuse says why in a form that nodes show to their users.
func refuse(w http.ResponseWriter, status int, why string) {
	w.Header().Set(relay.RefusalHeader, why)
	w.Header().Set("Connection", "close")
	http.Error(w, why, status)
}

// serveConn takes the login and then serves the client.
func (s *Server) serveConn(conn transport, v visitor) {
	id, fresh, err := s.logIn(conn, v)
	if err != nil {
		s.logger.Debug("relay login failed", "addr", v.addr, "error", err)
		return
	}
	if !v.inTime() {
		return
	}
	if v.webSocket {
		s.count.webSocketAccepts.Add(1)
	}
	newClient(s, id, v, conn, fresh).serve()
}
