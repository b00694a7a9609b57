package relayserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/webserver/webservertest"
)

// namesAt returns the names in the certificate that a server shows.
func namesAt(t testing.TB, addr, name string, roots *x509.CertPool) []string {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, &tls.Config{ServerName: name, RootCAs: roots})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].DNSNames
}

func TestCertificateFiles(t *testing.T) {
	a := webservertest.NewAuthority(t)
	certFile, keyFile := a.WritePair(t.TempDir(), "relay.example")
	s, err := New(Config{Addr: "127.0.0.1:0", STUNAddr: "none", CertFile: certFile, KeyFile: keyFile, Access: Access{Mode: AccessEveryone}})
	if err != nil {
		t.Fatal(err)
	}
	run(t, s)
	if names := namesAt(t, s.Addr().String(), "relay.example", a.Pool); !slices.Equal(names, []string{"relay.example"}) {
		t.Error(names)
	}
	if !s.names.has("relay.example:443", nil) || s.names.has("other.example:443", nil) {
		t.Error("the names of the certificate are not those of the relay")
	}
	if _, err := New(Config{CertFile: certFile + "x", KeyFile: keyFile, Access: Access{Mode: AccessEveryone}}); err == nil {
		t.Error("a missing file goes")
	}
}

func TestACME(t *testing.T) {
	f := webservertest.StartACME(t, "relay.example")
	cfg := Config{
		Addr: "127.0.0.1:0", STUNAddr: "none", CaptiveAddr: "127.0.0.1:0", Access: Access{Mode: AccessEveryone},
		ACME: &ACME{Hosts: []string{f.Host}, CacheDir: t.TempDir(), DirectoryURL: f.Directory(), Contact: "root@relay.example"},
	}
	for round := range 2 { // the second takes it from the cache
		ready := make(chan struct{})
		cfg.Logger = slog.New(slog.NewTextHandler(&webservertest.Until{Text: "certificate ready", Done: ready}, nil))
		s, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		f.Target = func() string { return s.Addr().String() }
		stop := run(t, s)
		select {
		case <-ready:
		case <-time.After(patience):
			t.Fatal("no certificate")
		}
		for _, name := range []string{f.Host, ""} { // no name: that of the first host
			conn, err := tls.Dial("tcp", s.Addr().String(), &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
			if err != nil {
				t.Fatal(err)
			}
			state := conn.ConnectionState()
			if _, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: f.Pool, DNSName: f.Host}); err != nil || state.NegotiatedProtocol != "http/1.1" {
				t.Errorf("name %q: %s, %v", name, state.NegotiatedProtocol, err)
			}
			_ = conn.Close()
		}
		if _, err := tls.Dial("tcp", s.Addr().String(), &tls.Config{ServerName: "other.example", InsecureSkipVerify: true}); err == nil {
			t.Error("a certificate for another name")
		}
		if !s.names.has(f.Host+":443", nil) {
			t.Error("the relay does not know its name")
		}
		if got := f.Orders.Load(); got != 1 {
			t.Errorf("round %d: %d orders", round, got)
		}
		stop()
	}
}

// A relay whose authority never answers still stops at once.
func TestACMEUnanswered(t *testing.T) {
	asked := make(chan struct{}, 8)
	hang := make(chan struct{})
	web := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		_, _ = io.Copy(io.Discard, r.Body)
		<-hang
	}))
	defer web.Close()
	defer close(hang)
	s, err := New(Config{
		Addr: "127.0.0.1:0", STUNAddr: "none", Access: Access{Mode: AccessEveryone},
		ACME: &ACME{Hosts: []string{"relay.example"}, CacheDir: t.TempDir(), DirectoryURL: web.URL},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	<-asked
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("Run goes on")
	}
}
