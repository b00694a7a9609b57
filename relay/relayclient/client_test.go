package relayclient_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
	"github.com/nodetun/nodetun/relay/relayclient"
	"github.com/nodetun/nodetun/relay/relayserver"
	"github.com/nodetun/nodetun/relay/relayserver/relaytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = time.Minute

// recorder keeps what a client receives.
type recorder struct {
	packets chan string
	gone    chan identity.NodeID
	health  chan string
}

func newRecorder() *recorder {
	return &recorder{packets: make(chan string, 1000), gone: make(chan identity.NodeID, 10), health: make(chan string, 10)}
}

func (r *recorder) RelayPacket(_ identity.NodeID, payload []byte) {
	for len(payload) > 0 {
		d, rest, err := relay.NextDatagram(payload)
		if err != nil {
			return
		}
		r.packets <- string(d)
		payload = rest
	}
}
func (r *recorder) RelayGone(id identity.NodeID) { r.gone <- id }
func (r *recorder) RelayHealth(text string)      { r.health <- text }

func wait[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("nothing arrives")
		panic("unreachable")
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for begin := time.Now(); !ok(); time.Sleep(time.Millisecond) {
		if time.Since(begin) > patience {
			t.Fatal("it does not happen")
		}
	}
}

// run runs a client until stop is called or the test ends.
func run(t *testing.T, c *relayclient.Client, h relayclient.Handler) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx, h) }()
	stop = func() error {
		cancel()
		err := <-done
		done <- err
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return stop
}

func url(t *testing.T, s string) identity.RelayURL {
	t.Helper()
	u, err := identity.ParseRelayURL(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestBetweenClients(t *testing.T) {
	for _, test := range []struct {
		name           string
		secure         bool
		iroh1A, iroh1B bool
	}{
		{"http", false, false, false},
		{"https", true, false, false},
		{"http, iroh 1.x", false, true, true},
		{"https, iroh 1.x", true, true, true},
		{"http, one of each", false, true, false},
		{"https, one of each", true, false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			var cfg relayserver.Config
			var clientTLS *tls.Config
			if test.secure {
				server, roots := relaytest.TLS(t)
				cfg.TLS, clientTLS = server, &tls.Config{RootCAs: roots}
				cfg.Access.Mode = relayserver.AccessEveryone
			}
			cfg.RequireChallenge = true // the client answers it
			r := relaytest.Start(t, cfg)
			dial := func(iroh1 bool) (*relayclient.Client, *recorder, identity.NodeID, func() error) {
				key := identity.GenerateSecretKey()
				c, err := relayclient.Dial(t.Context(), relayclient.Config{URL: r.URL, Key: key, TLS: clientTLS, Iroh1: iroh1})
				if err != nil {
					t.Fatal(err)
				}
				if c.Iroh1() != iroh1 {
					t.Errorf("iroh 1.x: %v", c.Iroh1())
				}
				h := newRecorder()
				return c, h, key.NodeID(), run(t, c, h)
			}
			a, ha, idA, stopA := dial(test.iroh1A)
			b, hb, idB, _ := dial(test.iroh1B)
			a.NotePreferred(true)
			waitFor(t, func() bool { return a.Established() && b.Established() && a.RTT() > 0 })
			if a.RTT() > patience {
				t.Errorf("round trip of %v", a.RTT())
			}
			if !a.Send(idB, []byte("abcdefgh"), 3) {
				t.Error("not taken")
			}
			for _, want := range []string{"abc", "def", "gh"} {
				if got := wait(t, hb.packets); got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			}
			b.Send(idA, []byte("back"), 1200)
			if got := wait(t, ha.packets); got != "back" {
				t.Errorf("got %q", got)
			}
			// What was queued when the context ends still leaves.
			a.Send(idB, []byte("last words"), 1200)
			if err := stopA(); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			if got := wait(t, hb.packets); got != "last words" {
				t.Errorf("got %q", got)
			}
			if got := wait(t, hb.gone); got != idA {
				t.Errorf("gone: %v", got)
			}
		})
	}
}

func TestRefusedLogin(t *testing.T) {
	r := relaytest.Start(t, relayserver.Config{Access: relayserver.Access{Mode: relayserver.AccessAllow}})
	c, err := relayclient.Dial(t.Context(), relayclient.Config{URL: r.URL, Key: identity.GenerateSecretKey()})
	if err != nil {
		t.Fatal(err)
	}
	h := newRecorder()
	if err := c.Run(t.Context(), h); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if text := wait(t, h.health); text != "not authenticated" {
		t.Errorf("%q", text)
	}
}

func TestRelayGoesAway(t *testing.T) {
	r := relaytest.Start(t, relayserver.Config{})
	c, err := relayclient.Dial(t.Context(), relayclient.Config{URL: r.URL, Key: identity.GenerateSecretKey()})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- c.Run(t.Context(), newRecorder()) }()
	waitFor(t, c.Established)
	r.Stop()
	if err := wait(t, done); err == nil || errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A server whose certificate is for another name, or of an unknown authority,
// is no relay of ours.
func TestCertificateIsChecked(t *testing.T) {
	server, roots := relaytest.TLS(t)
	r := relaytest.Start(t, relayserver.Config{TLS: server, Access: relayserver.Access{Mode: relayserver.AccessEveryone}})
	key := identity.GenerateSecretKey()
	if _, err := relayclient.Dial(t.Context(), relayclient.Config{URL: r.URL, Key: key}); err == nil {
		t.Error("unknown authority accepted")
	}
	other := relayclient.Config{URL: url(t, "https://other.example"), Key: key, TLS: &tls.Config{RootCAs: roots}}
	other.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, r.Server.Addr().String())
	}
	if _, err := relayclient.Dial(t.Context(), other); err == nil {
		t.Error("another name accepted")
	}
}
