package relayserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
	"github.com/nodetun/nodetun/relay/iroh1"
)

// iroh1Client is a client of iroh 1.x that does exactly what the test says.
type iroh1Client struct {
	t    testing.TB
	conn *websocket.Conn
	ctx  context.Context
}

// dialIroh1 upgrades; header and conn may be nil.
func dialIroh1(t testing.TB, s *Server, header http.Header, conn net.Conn, protocols ...string) (*iroh1Client, *http.Response, error) {
	t.Helper()
	return dialIroh1At(t, s, "/relay", header, conn, protocols...)
}

func dialIroh1At(t testing.TB, s *Server, path string, header http.Header, conn net.Conn, protocols ...string) (*iroh1Client, *http.Response, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	options := &websocket.DialOptions{Subprotocols: protocols, HTTPHeader: header}
	scheme := "ws://"
	if conn != nil {
		scheme = "wss://"
		options.HTTPClient = &http.Client{Transport: &http.Transport{
			DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		}}
	}
	ws, response, err := websocket.Dial(ctx, scheme+s.Addr().String()+path, options)
	if err != nil {
		return nil, response, err
	}
	ws.SetReadLimit(iroh1.MaxMessage)
	t.Cleanup(func() { _ = ws.CloseNow() })
	return &iroh1Client{t: t, conn: ws, ctx: ctx}, response, nil
}

func (c *iroh1Client) write(message []byte) {
	c.t.Helper()
	if err := c.conn.Write(c.ctx, websocket.MessageBinary, message); err != nil {
		c.t.Fatal(err)
	}
}

func (c *iroh1Client) expect(want iroh1.Type) []byte {
	c.t.Helper()
	_, message, err := c.conn.Read(c.ctx)
	if err != nil {
		c.t.Fatalf("waiting for %d: %v", want, err)
	}
	t, body, err := iroh1.Parse(message)
	if err != nil || t != want {
		c.t.Fatalf("got %d %x, %v, want %d", t, body, err, want)
	}
	return body
}

// ended says that the server ends the connection.
func (c *iroh1Client) ended() {
	c.t.Helper()
	for {
		if _, _, err := c.conn.Read(c.ctx); err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				c.t.Fatal("the connection goes on")
			}
			return
		}
	}
}

// answer answers the challenge that comes.
func (c *iroh1Client) answer(key *identity.SecretKey) {
	c.t.Helper()
	challenge, err := iroh1.ParseChallenge(c.expect(iroh1.TypeServerChallenge))
	if err != nil {
		c.t.Fatal(err)
	}
	c.write(iroh1.AppendClientAuth(nil, key, challenge))
}

// logInIroh1 logs in by challenge.
func logInIroh1(t testing.TB, s *Server, key *identity.SecretKey, protocols ...string) *iroh1Client {
	t.Helper()
	if len(protocols) == 0 {
		protocols = []string{iroh1.SubprotocolV2, iroh1.SubprotocolV1}
	}
	c, _, err := dialIroh1(t, s, nil, nil, protocols...)
	if err != nil {
		t.Fatal(err)
	}
	c.answer(key)
	c.confirmed()
	return c
}

// confirmed says that the login is good, and waits until it took effect.
func (c *iroh1Client) confirmed() {
	c.t.Helper()
	c.expect(iroh1.TypeServerConfirmsAuth)
	c.write(iroh1.AppendPing(nil, [8]byte{}))
	c.expect(iroh1.TypePong)
}

func (c *iroh1Client) send(dst *identity.SecretKey, segment int, datagrams string) {
	c.t.Helper()
	c.write(iroh1.AppendPacket(nil, true, iroh1.Packet{Node: dst.NodeID(), Segment: segment, Datagrams: []byte(datagrams)}))
}

func (c *iroh1Client) expectPacket(kind iroh1.Type, src *identity.SecretKey, segment int, datagrams string) {
	c.t.Helper()
	p, err := iroh1.ParsePacket(kind, c.expect(kind))
	if err != nil || p.Node != src.NodeID() || p.Segment != segment || string(p.Datagrams) != datagrams {
		c.t.Fatalf("%v, segments of %d, %d bytes, %v", p.Node.Short(), p.Segment, len(p.Datagrams), err)
	}
}

func TestIroh1Subprotocols(t *testing.T) {
	s := start(t, Config{})
	for _, test := range []struct {
		name    string
		offered []string
		want    string
	}{
		{"both", []string{iroh1.SubprotocolV2, iroh1.SubprotocolV1}, iroh1.SubprotocolV2},
		{"both, the other way round", []string{iroh1.SubprotocolV1, iroh1.SubprotocolV2}, iroh1.SubprotocolV2},
		{"first version", []string{iroh1.SubprotocolV1}, iroh1.SubprotocolV1},
		{"one of the future as well", []string{"iroh-relay-v9", iroh1.SubprotocolV1}, iroh1.SubprotocolV1},
		{"unknown", []string{"iroh-relay-v9"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, response, err := dialIroh1(t, s, nil, nil, test.offered...)
			if test.want == "" {
				if err == nil || response.StatusCode != http.StatusBadRequest {
					t.Fatal(response, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := c.conn.Subprotocol(); got != test.want {
				t.Errorf("%q", got)
			}
			c.expect(iroh1.TypeServerChallenge)
		})
	}
}

func TestIroh1Logins(t *testing.T) {
	denied, key := newKey(), newKey()
	s := start(t, Config{Access: Access{Mode: AccessDeny, Nodes: []identity.NodeID{denied.NodeID()}}})
	begin := func() *iroh1Client {
		c, _, err := dialIroh1(t, s, nil, nil, iroh1.SubprotocolV2)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	reason := func(c *iroh1Client) string {
		text, err := iroh1.ParseDeny(c.expect(iroh1.TypeServerDeniesAuth))
		if err != nil {
			t.Fatal(err)
		}
		c.ended()
		return text
	}
	t.Run("good", func(t *testing.T) { logInIroh1(t, s, key) })
	t.Run("not welcome", func(t *testing.T) {
		c := begin()
		c.answer(denied)
		if got := reason(c); got != "not authorized" {
			t.Errorf("%q", got)
		}
	})
	t.Run("another challenge", func(t *testing.T) {
		c := begin()
		c.expect(iroh1.TypeServerChallenge)
		c.write(iroh1.AppendClientAuth(nil, key, [16]byte{}))
		if got := reason(c); got != "signature invalid" {
			t.Errorf("%q", got)
		}
	})
	t.Run("another frame", func(t *testing.T) {
		c := begin()
		c.expect(iroh1.TypeServerChallenge)
		c.write(iroh1.AppendPing(nil, [8]byte{}))
		c.ended()
	})
	t.Run("header without TLS", func(t *testing.T) { // is ignored
		header := http.Header{iroh1.AuthHeader: {iroh1.AuthHeaderValue(key, [32]byte{})}}
		c, _, err := dialIroh1(t, s, header, nil, iroh1.SubprotocolV2)
		if err != nil {
			t.Fatal(err)
		}
		c.answer(key)
		c.confirmed()
	})
	if c := s.Counters(); c.Iroh1Accepts != 2 || c.LoginsDenied != 1 || c.LoginFailures != 2 {
		t.Errorf("%+v", c)
	}
}

// Over TLS a header that is bound to the connection spares the challenge; that of
// another connection does not.
func TestIroh1HeaderLogin(t *testing.T) {
	s := start(t, Config{
		TLS:    &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}},
		Access: Access{Mode: AccessEveryone},
	})
	key := newKey()
	id := key.NodeID()
	dial := func(t *testing.T) (*tls.Conn, [32]byte) {
		conn, err := tls.Dial("tcp", s.Addr().String(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		state := conn.ConnectionState()
		keying, err := state.ExportKeyingMaterial(iroh1.ExporterLabel, id[:], iroh1.KeyingLen)
		if err != nil {
			t.Fatal(err)
		}
		return conn, [32]byte(keying)
	}
	upgrade := func(t *testing.T, conn net.Conn, value string) *iroh1Client {
		c, _, err := dialIroh1(t, s, http.Header{iroh1.AuthHeader: {value}}, conn, iroh1.SubprotocolV2)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	t.Run("of this connection", func(t *testing.T) {
		conn, keying := dial(t)
		upgrade(t, conn, iroh1.AuthHeaderValue(key, keying)).confirmed()
	})
	t.Run("of another connection", func(t *testing.T) {
		other, keying := dial(t)
		defer other.Close()
		conn, _ := dial(t)
		c := upgrade(t, conn, iroh1.AuthHeaderValue(key, keying))
		c.answer(key)
		c.confirmed()
	})
	t.Run("no header of this kind", func(t *testing.T) {
		conn, _ := dial(t)
		upgrade(t, conn, "not base64!").ended()
	})
}

// Clients of version 3 and of 1.x reach each other, with all that they are told.
func TestIroh1Bridge(t *testing.T) {
	s := start(t, Config{})
	kv3, k1, kOld := newKey(), newKey(), newKey()
	v3, v2, v1 := logIn(t, s, kv3), logInIroh1(t, s, k1), logInIroh1(t, s, kOld, iroh1.SubprotocolV1)

	v2.send(kv3, 3, "aaabbbc")
	v3.expectPacket(k1, relay.AppendDatagram(relay.AppendDatagram(relay.AppendDatagram(nil, []byte("aaa")), []byte("bbb")), []byte("c")))
	v3.send(k1, relay.AppendDatagram(relay.AppendDatagram(nil, []byte("aaa")), []byte("bb")))
	v2.expectPacket(iroh1.TypeRecvBatch, kv3, 3, "aaabb")
	v3.send(k1, relay.AppendDatagram(nil, []byte("single")))
	v2.expectPacket(iroh1.TypeRecvDatagram, kv3, 0, "single")
	v2.send(kOld, 0, "between them")
	v1.expectPacket(iroh1.TypeRecvDatagram, k1, 0, "between them")

	// Nothing that ends the receiver's connection is passed on: an empty datagram, one
	// byte more than may be sent, a batch of one byte each.
	v2.send(kOld, 0, "")
	v2.send(kOld, 0, strings.Repeat("x", iroh1.MaxDatagram+1))
	v2.send(kOld, 0, strings.Repeat("y", iroh1.MaxDatagram))
	v1.expectPacket(iroh1.TypeRecvDatagram, k1, 0, strings.Repeat("y", iroh1.MaxDatagram))
	v2.send(kOld, 1, strings.Repeat("z", iroh1.MaxBatch))
	for left := iroh1.MaxBatch; left > 0; {
		p, err := iroh1.ParsePacket(iroh1.TypeRecvBatch, v1.expect(iroh1.TypeRecvBatch))
		if err != nil || p.Segment != 1 {
			t.Fatal(p.Segment, err)
		}
		left -= len(p.Datagrams)
	}

	v2.write(iroh1.AppendPing(nil, [8]byte{7}))
	if body := v2.expect(iroh1.TypePong); body[0] != 7 {
		t.Errorf("%x", body)
	}
	_ = v3.conn.Close()
	if body := v2.expect(iroh1.TypeEndpointGone); identity.NodeID(body) != kv3.NodeID() {
		t.Errorf("%x is gone", body)
	}
	_ = v2.conn.Close(websocket.StatusNormalClosure, "")
	if body := v1.expect(iroh1.TypeEndpointGone); identity.NodeID(body) != k1.NodeID() {
		t.Errorf("%x is gone", body)
	}
}

// Of connections with one key the youngest gets the packets, the others wait and
// are told; nobody is thrown out.
func TestIroh1SameKey(t *testing.T) {
	s := start(t, Config{})
	key, other := newKey(), newKey()
	friend := logIn(t, s, other)
	first := logInIroh1(t, s, key, iroh1.SubprotocolV1)
	second := logInIroh1(t, s, key)
	if text := string(first.expect(iroh1.TypeHealth)); text != relay.HealthElsewhere {
		t.Errorf("%q", text)
	}
	third := logInIroh1(t, s, key)
	if body := second.expect(iroh1.TypeStatus); body[0] != iroh1.StatusSameID {
		t.Errorf("%x", body)
	}
	hello := relay.AppendDatagram(nil, []byte("hello"))
	for _, c := range []*iroh1Client{third, second, first} {
		friend.send(key, hello)
		c.expectPacket(iroh1.TypeRecvDatagram, other, 0, "hello")
		_ = c.conn.Close(websocket.StatusNormalClosure, "")
		switch c {
		case third:
			if body := second.expect(iroh1.TypeStatus); body[0] != iroh1.StatusHealthy {
				t.Errorf("%x", body)
			}
		case second:
			if text := string(first.expect(iroh1.TypeHealth)); text != relay.HealthBack {
				t.Errorf("%q", text)
			}
		}
	}
}

// Whatever is no frame of a client ends the connection.
func TestIroh1BadFrames(t *testing.T) {
	s := start(t, Config{})
	for name, message := range map[string][]byte{
		"empty":              {},
		"unknown":            {0x3f},
		"short ping":         {9, 1},
		"of version 3":       relay.Message(relay.AppendPing(nil, [8]byte{})),
		"of a server":        iroh1.AppendStatus(nil, 1),
		"second login":       iroh1.AppendClientAuth(nil, newKey(), [16]byte{}),
		"packet cut short":   {4, 1, 2, 3},
		"overlong":           append([]byte{4}, make([]byte, 65537)...),
		"longer than any":    make([]byte, iroh1.MaxMessage+1),
		"long form, unknown": {0x7f, 0xff},
	} {
		t.Run(name, func(t *testing.T) {
			c := logInIroh1(t, s, newKey())
			_ = c.conn.Write(c.ctx, websocket.MessageBinary, message)
			c.ended()
		})
	}
	c := logInIroh1(t, s, newKey())
	if err := c.conn.Write(c.ctx, websocket.MessageText, []byte("skipped")); err != nil {
		t.Fatal(err)
	}
	c.write(append([]byte{0x40, 9}, make([]byte, 8)...)) // a ping, its type in the longer form
	c.expect(iroh1.TypePong)
}

// A client that never logs in is cut off.
func TestIroh1LoginTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := devServer(t)
		ours, theirs := net.Pipe()
		server := &http.Server{Handler: s.Handler()}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = server.Serve(&oneConn{conn: theirs})
		}()
		defer func() {
			s.Close()
			_ = server.Close()
			<-done
		}()
		conn, _, err := websocket.Dial(t.Context(), "ws://relay.example/relay", &websocket.DialOptions{
			Subprotocols: []string{iroh1.SubprotocolV2},
			HTTPClient: &http.Client{Transport: &http.Transport{
				DialContext: func(context.Context, string, string) (net.Conn, error) { return ours, nil },
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.CloseNow()
		begin := time.Now()
		(&iroh1Client{t: t, conn: conn, ctx: t.Context()}).ended()
		if took := time.Since(begin); took != loginTimeout {
			t.Errorf("after %v", took)
		}
	})
}

// oneConn is a listener to which one client comes.
type oneConn struct{ conn net.Conn }

func (l *oneConn) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	return nil, http.ErrServerClosed
}

func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return &net.UnixAddr{Name: "memory"} }

func TestHealthz(t *testing.T) {
	s := start(t, Config{})
	response, err := http.Get("http://" + s.Addr().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || !bytes.Contains(body, []byte(`"status":"ok"`)) || response.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%s, %v, %v", body, response.Header, err)
	}
}
