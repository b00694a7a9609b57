package relayserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
)

// S26: nobody gets an open relay by accident.
func TestAccessHasNoDefault(t *testing.T) {
	if _, err := New(Config{}); !errors.Is(err, ErrNoAccess) {
		t.Error(err)
	}
	if _, err := New(Config{Access: Access{Mode: AccessEveryone}}); !errors.Is(err, ErrNoCertificate) {
		t.Error(err)
	}
	if _, err := New(Config{Access: Access{Mode: AccessEveryone}, CertFile: "x"}); err == nil {
		t.Error("a certificate without key")
	}
	if _, err := New(Config{Access: Access{Mode: AccessEveryone}, TLS: &tls.Config{}}); err != nil {
		t.Error(err)
	}
	if _, err := New(Config{Dev: true}); err != nil {
		t.Error(err)
	}
}

func TestAccess(t *testing.T) {
	friend, stranger := newKey(), newKey()
	for _, test := range []struct {
		mode AccessMode
		in   *identity.SecretKey
		out  *identity.SecretKey
		list *identity.SecretKey
	}{
		{AccessAllow, friend, stranger, friend},
		{AccessDeny, friend, stranger, stranger},
	} {
		s := start(t, Config{Access: Access{Mode: test.mode, Nodes: []identity.NodeID{test.list.NodeID()}}})
		logIn(t, s, test.in)
		r := dialRaw(t, s)
		r.upgrade()
		r.write(relay.AppendClientInfo(nil, test.out))
		if text := string(r.expect(relay.TypeHealth)); text != "not authenticated" {
			t.Errorf("%q", text)
		}
		r.ended()
		if c := s.Counters(); c.LoginsDenied != 1 || c.Accepts != 1 {
			t.Errorf("%+v", c)
		}
	}
}

// S26: more than 20 logins a second from one prefix are turned away.
func TestLoginRate(t *testing.T) {
	s := start(t, Config{Limits: Limits{LoginsPerSecond: 20}})
	refused := 0
	for range 40 {
		r := dialRaw(t, s)
		r.write([]byte(upgradeRequest))
		line, err := r.br.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(line, "429") {
			refused++
		}
	}
	if refused == 0 || s.Counters().LoginsLimited != uint64(refused) {
		t.Errorf("%d refused", refused)
	}
}

// S26: no more than 64 connections from one prefix, logged in or not.
func TestConnectionsPerPrefix(t *testing.T) {
	s := start(t, Config{Limits: Limits{ConnsPerPrefix: 64}})
	var first *raw
	for i := range 64 {
		r := dialRaw(t, s)
		r.upgrade()
		if i == 0 {
			first = r
		}
	}
	r := dialRaw(t, s)
	if _, err := r.br.ReadByte(); err == nil {
		t.Error("the 65th was let in")
	}
	_ = first.conn.Close()
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		r := dialRaw(t, s)
		_, _ = r.conn.Write([]byte(upgradeRequest))
		if _, err := r.br.ReadByte(); err == nil {
			return // one place was free again
		}
		if time.Since(begin) > patience {
			t.Fatal("the place of a closed connection is lost")
		}
	}
}

func TestConnectionsInAll(t *testing.T) {
	s := start(t, Config{Limits: Limits{Conns: 3}})
	for range 3 {
		dialRaw(t, s).upgrade()
	}
	if _, err := dialRaw(t, s).br.ReadByte(); err == nil {
		t.Error("the fourth was let in")
	}
	if n := s.Counters().ConnsLimited; n != 1 {
		t.Errorf("%d counted", n)
	}
}

// What all clients send together is bounded too.
func TestReceiveTotal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Config{Dev: true, Limits: Limits{ReceiveTotal: 10_000, ReceiveTotalBurst: 1000}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		begin := time.Now()
		var wg sync.WaitGroup
		for range 4 {
			key := newKey()
			r := pipeClient(t, s)
			r.write(relay.AppendClientInfo(nil, key))
			wg.Go(func() {
				for range 50 {
					r.send(newKey(), make([]byte, 100-relay.HeaderLen-relay.KeyLen))
				}
				r.sync()
			})
		}
		wg.Wait()
		// 20 000 bytes, of which 1000 are free.
		if took := time.Since(begin); took < 1800*time.Millisecond || took > 2200*time.Millisecond {
			t.Errorf("took %v", took)
		}
		if c := s.Counters(); c.PacketsReceived != 200 || c.ClientsThrottled != 4 || c.FramesThrottled < 100 {
			t.Errorf("%+v", c)
		}
	})
}

// S26: who sends more than its share is read more slowly; nothing is lost.
func TestReceiveRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Config{Dev: true, Limits: Limits{ReceivePerClient: 4 << 20}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		r := pipeClient(t, s)
		r.write(relay.AppendClientInfo(nil, newKey()))
		begin := time.Now()
		for range 21 << 4 { // 21 MiB, of which 1 MiB is the burst
			r.send(newKey(), make([]byte, relay.MaxPayload-relay.KeyLen-relay.HeaderLen))
		}
		r.sync()
		if d := time.Since(begin); d < 4900*time.Millisecond || d > 5100*time.Millisecond {
			t.Errorf("21 MiB took %v", d)
		}
	})
}

func TestBindErrorIsOneLine(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := New(Config{Dev: true, Addr: l.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Run(t.Context())
	want := fmt.Sprintf("relay cannot listen on %v for HTTP: bind: address already in use", l.Addr())
	if err == nil || err.Error() != want {
		t.Errorf("%v", err)
	}
}

// An upgrade needs HTTP/1.1, whatever a TLS client would like better.
func TestTLSOffersHTTP1Only(t *testing.T) {
	certificate := selfSigned(t)
	s := start(t, Config{
		TLS:    &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2"}},
		Access: Access{Mode: AccessEveryone},
	})
	conn, err := tls.Dial("tcp", s.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if p := conn.ConnectionState().NegotiatedProtocol; p != "http/1.1" {
		t.Errorf("agreed on %q", p)
	}
	// iroh's clients offer nothing.
	plain, err := tls.Dial("tcp", s.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	_, _ = plain.Write([]byte("GET /generate_204 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
	head := make([]byte, 12)
	if _, err := plain.Read(head); err != nil || string(head) != "HTTP/1.1 404" {
		t.Errorf("%q, %v", head, err)
	}
}

// With certificate files HTTPS serves the relay, and the HTTP port nothing but
// the captive portal test.
func TestCertificateFilesAndCaptivePort(t *testing.T) {
	certificate := selfSigned(t)
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cfg := Config{
		CertFile: filepath.Join(dir, "relay.crt"), KeyFile: filepath.Join(dir, "relay.key"),
		Addr: "127.0.0.1:0", CaptiveAddr: "127.0.0.1:0", STUNAddr: "none",
		Access: Access{Mode: AccessEveryone},
	}
	for file, block := range map[string]*pem.Block{
		cfg.CertFile: {Type: "CERTIFICATE", Bytes: certificate.Certificate[0]},
		cfg.KeyFile:  {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	captive := s.captive.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}
	for url, want := range map[string]int{
		"https://" + s.Addr().String() + "/ping":         200,
		"https://" + s.Addr().String() + "/generate_204": 404,
		"http://" + captive + "/generate_204":            204,
		"http://" + captive + "/ping":                    404,
	} {
		response, err := (&http.Client{Transport: transport}).Get(url)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s: %s", url, response.Status)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// S26: what is logged above debug names no client.
func TestLogsNameNobody(t *testing.T) {
	var log lockedBuffer
	s := start(t, Config{
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
		Limits: Limits{ConnsPerPrefix: 3},
	})
	a, b := newKey(), newKey()
	ra, rb := logIn(t, s, a), logIn(t, s, b)
	ra.send(b, []byte("hello"))
	rb.expectPacket(a, []byte("hello"))
	client := ra.conn.LocalAddr().String()
	_ = ra.conn.Close()
	rb.expect(relay.TypePeerGone)
	bad := dialRaw(t, s)
	bad.upgrade()
	bad.write([]byte{9, 0, 0, 0, 0})
	bad.ended()
	text := log.String()
	for _, secret := range []string{a.NodeID().String(), a.NodeID().Short(), b.NodeID().Short(), client} {
		if strings.Contains(text, secret) {
			t.Errorf("the log names %s:\n%s", secret, text)
		}
	}
	if !strings.Contains(text, "relay listens") {
		t.Errorf("nothing is logged: %q", text)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
