package relayclient_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	neturl "net/url"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay/iroh1"
	"github.com/nodetun/nodetun/relay/relayclient"
	"github.com/nodetun/nodetun/relay/relayserver"
	"github.com/nodetun/nodetun/relay/relayserver/relaytest"
)

// dialOnly dials a server that knows only what know says of an upgrade; first is
// what the client tries first.
func dialOnly(t *testing.T, know func(upgrade string) bool, first bool) (*relayclient.Client, error) {
	t.Helper()
	relay := relaytest.StartMemory(t, relayserver.Config{}).Server.Handler()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !know(r.Header.Get("Upgrade")) {
			http.Error(w, "what is that?", http.StatusBadRequest)
			return
		}
		r.Header.Del(loginHeader) // which iroh's do not know
		relay.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return relayclient.Dial(t.Context(), relayclient.Config{
		URL: url(t, server.URL), Key: identity.GenerateSecretKey(), Iroh1: first,
	})
}

// Dial finds out which protocol the server speaks.
func TestDialFallsBack(t *testing.T) {
	for _, test := range []struct {
		name        string
		know        string
		first, want bool
	}{
		{"of iroh 1.x", "websocket", false, true},
		{"of iroh 1.x, known to be", "websocket", true, true},
		{"of version 3", "iroh derp http", false, false},
		{"of version 3, not known to be", "iroh derp http", true, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := dialOnly(t, func(upgrade string) bool { return upgrade == test.know }, test.first)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if c.Iroh1() != test.want {
				t.Errorf("iroh 1.x: %v", c.Iroh1())
			}
		})
	}
	if _, err := dialOnly(t, func(string) bool { return false }, false); !errors.Is(err, relayclient.ErrUpgrade) {
		t.Errorf("no relay at all: %v", err)
	}
}

const loginHeader = "Nodetun-Login"

// Behind a proxy that knows WebSocket only, and ends TLS, nodetun's nodes answer the
// challenge of nodetun's relays.
func TestByWebSocketOnly(t *testing.T) {
	r := relaytest.Start(t, relayserver.Config{RequireChallenge: true, Hosts: []string{"127.0.0.1"}})
	front := httputil.NewSingleHostReverseProxy(&neturl.URL{Scheme: "http", Host: r.Server.Addr().String()})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" {
			http.Error(w, "what is that?", http.StatusBadRequest)
			return
		}
		front.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	c, err := relayclient.Dial(t.Context(), relayclient.Config{URL: url(t, server.URL), Key: identity.GenerateSecretKey()})
	if err != nil {
		t.Fatal(err)
	}
	h := newRecorder()
	run(t, c, h)
	for !c.Established() {
		time.Sleep(time.Millisecond)
	}
	if c.Iroh1() || len(h.health) > 0 {
		t.Errorf("iroh 1.x: %v, the relay said %d things", c.Iroh1(), len(h.health))
	}
}

// logins runs a server of iroh 1.x whose side of the login is hand-made.
func logins(t *testing.T, secure bool, serve func(ctx context.Context, c *websocket.Conn)) error {
	t.Helper()
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{iroh1.SubprotocolV2}})
		if err != nil {
			return
		}
		defer c.CloseNow()
		serve(r.Context(), c)
	})
	cfg := relayclient.Config{Key: identity.GenerateSecretKey(), Iroh1: true}
	if secure {
		server := httptest.NewTLSServer(handler)
		t.Cleanup(server.Close)
		cfg.URL, cfg.TLS = url(t, strings.Replace(server.URL, "127.0.0.1", "example.com", 1)), server.Client().Transport.(*http.Transport).TLSClientConfig
		cfg.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, server.Listener.Addr().String())
		}
	} else {
		server := httptest.NewServer(handler)
		t.Cleanup(server.Close)
		cfg.URL = url(t, server.URL)
	}
	c, err := relayclient.Dial(t.Context(), cfg)
	if err == nil {
		_ = c.Close()
	}
	return err
}

func TestIroh1Refusals(t *testing.T) {
	write := func(messages ...[]byte) func(context.Context, *websocket.Conn) {
		return func(ctx context.Context, c *websocket.Conn) {
			for _, m := range messages {
				_ = c.Write(ctx, websocket.MessageBinary, m)
			}
			_, _, _ = c.Read(ctx)
		}
	}
	challenge := iroh1.AppendChallenge(nil, [16]byte{1})
	for _, test := range []struct {
		name   string
		secure bool
		serve  func(context.Context, *websocket.Conn)
		want   error
	}{
		{"let in", false, write(iroh1.AppendConfirm(nil)), nil},
		{"let in over TLS", true, write(iroh1.AppendConfirm(nil)), nil},
		{"denied", false, write(iroh1.AppendDeny(nil, "not authorized")), relayclient.ErrRefused},
		{"denied after a challenge", false, write(challenge, iroh1.AppendDeny(nil, "not authorized")), relayclient.ErrRefused},
		{"two challenges", false, write(challenge, challenge), relayclient.ErrUnexpected},
		{"packet before the login", false, write(iroh1.AppendPing(nil, [8]byte{})), relayclient.ErrUnexpected},
		{"no frame", false, write([]byte{0x3f}), iroh1.ErrUnknownType},
		// S1: a hostile relay passes on the challenge of another.
		{"challenge over TLS", true, write(challenge, iroh1.AppendConfirm(nil)), relayclient.ErrUpgrade},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := logins(t, test.secure, test.serve); !errors.Is(err, test.want) {
				t.Errorf("%v", err)
			}
		})
	}
}

// S2: a token goes to its own relay and over no plain network.
func TestToken(t *testing.T) {
	for _, iroh1 := range []bool{false, true} {
		got := make(chan string, 4)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			got <- r.Header.Get("Authorization")
			http.Error(w, "no", http.StatusForbidden)
		}))
		defer server.Close()
		_, err := relayclient.Dial(t.Context(), relayclient.Config{
			URL: url(t, server.URL), Key: identity.GenerateSecretKey(), Token: "secret", Iroh1: iroh1,
		})
		if !errors.Is(err, relayclient.ErrRefused) {
			t.Error(err)
		}
		if text := wait(t, got); text != "Bearer secret" {
			t.Errorf("%q", text)
		}
	}
	dialled := false
	_, err := relayclient.Dial(t.Context(), relayclient.Config{
		URL: url(t, "http://relay.example"), Key: identity.GenerateSecretKey(), Token: "secret",
		Dial: func(context.Context, string, string) (net.Conn, error) { dialled = true; return nil, io.EOF },
	})
	if err == nil || dialled {
		t.Errorf("%v, dialled %v", err, dialled)
	}
}

// What comes behind the upgrade in one piece is not lost, and a server of version 3
// may be behind a WebSocket without subprotocol.
func TestVersion3BySocket(t *testing.T) {
	relay := relaytest.StartMemory(t, relayserver.Config{}).Server.Handler()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" {
			http.Error(w, "what is that?", http.StatusBadRequest)
			return
		}
		r.Header.Del("Sec-WebSocket-Protocol")
		relay.ServeHTTP(w, r)
	}))
	defer server.Close()
	dial := func() (*relayclient.Client, *recorder, identity.NodeID) {
		key := identity.GenerateSecretKey()
		c, err := relayclient.Dial(t.Context(), relayclient.Config{URL: url(t, server.URL), Key: key})
		if err != nil {
			t.Fatal(err)
		}
		h := newRecorder()
		run(t, c, h)
		return c, h, key.NodeID()
	}
	a, _, _ := dial()
	b, hb, idB := dial()
	waitFor(t, func() bool { return a.Established() && b.Established() })
	if a.Iroh1() {
		t.Error("taken for iroh 1.x")
	}
	a.Send(idB, []byte("hello"), 1200)
	if got := wait(t, hb.packets); got != "hello" {
		t.Errorf("%q", got)
	}
}
