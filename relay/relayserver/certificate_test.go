package relayserver

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/acme"

	"github.com/nodetun/nodetun/internal/webserver"
)

// authority signs certificates.
type authority struct {
	t    testing.TB
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: key, pool: x509.NewCertPool()}
	a.cert = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	return a
}

// sign returns a certificate for the name (DER).
func (a *authority) sign(name string, public crypto.PublicKey) []byte {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<60))
	if err != nil {
		a.t.Error(err)
		return nil
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, a.cert, public, a.key)
	if err != nil {
		a.t.Error(err)
	}
	return der
}

// writePair writes a new certificate for the name and its key.
func (a *authority) writePair(dir, name string) (certFile, keyFile string) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "relay.crt"), filepath.Join(dir, "relay.key")
	for path, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: a.sign(name, key.Public())}, keyFile: {Type: "EC PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// config has a certificate for the name.
func (a *authority) config(name string) *tls.Config {
	a.t.Helper()
	pair, err := tls.LoadX509KeyPair(a.writePair(a.t.TempDir(), name))
	if err != nil {
		a.t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}}
}

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

func TestCertificateIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		dir := t.TempDir()
		certFile, keyFile := a.writePair(dir, "one.example")
		var log bytes.Buffer
		c, err := webserver.OpenCertificate(certFile, keyFile, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		name := func() string {
			pair, err := c.Get(nil)
			if err != nil {
				t.Fatal(err)
			}
			if leaf := c.Leaf(); !leaf.Equal(pair.Leaf) {
				t.Error("leaf differs")
			}
			return pair.Leaf.DNSNames[0]
		}
		a.writePair(dir, "second.example") // longer: another size, whatever the clock
		if got := name(); got != "one.example" {
			t.Errorf("at once: %s", got)
		}
		time.Sleep(webserver.ReloadEvery)
		if got := name(); got != "second.example" {
			t.Errorf("after a while: %s", got)
		}
		if err := os.WriteFile(certFile, []byte("half a file"), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			time.Sleep(webserver.ReloadEvery)
			if got := name(); got != "second.example" {
				t.Errorf("with a broken file: %s", got)
			}
		}
		if n := strings.Count(log.String(), "cannot be used"); n != 1 {
			t.Errorf("%d complaints:\n%s", n, &log)
		}
		if err := os.Remove(certFile); err != nil {
			t.Fatal(err)
		}
		time.Sleep(webserver.ReloadEvery)
		if got := name(); got != "second.example" {
			t.Errorf("without a file: %s", got)
		}
		a.writePair(dir, "a-third.example")
		time.Sleep(webserver.ReloadEvery)
		if got := name(); got != "a-third.example" {
			t.Errorf("repaired: %s", got)
		}
	})
}

func TestCertificateFiles(t *testing.T) {
	a := newAuthority(t)
	certFile, keyFile := a.writePair(t.TempDir(), "relay.example")
	s, err := New(Config{Addr: "127.0.0.1:0", STUNAddr: "none", CertFile: certFile, KeyFile: keyFile, Access: Access{Mode: AccessEveryone}})
	if err != nil {
		t.Fatal(err)
	}
	run(t, s)
	if names := namesAt(t, s.Addr().String(), "relay.example", a.pool); !slices.Equal(names, []string{"relay.example"}) {
		t.Error(names)
	}
	if !s.names.has("relay.example:443", nil) || s.names.has("other.example:443", nil) {
		t.Error("the names of the certificate are not those of the relay")
	}
	if _, err := New(Config{CertFile: certFile + "x", KeyFile: keyFile, Access: Access{Mode: AccessEveryone}}); err == nil {
		t.Error("a missing file goes")
	}
}

// fakeACME is a certificate authority after RFC 8555 that believes whatever is signed,
// but proves tls-alpn-01 (RFC 8737) as a real one does.
type fakeACME struct {
	*authority
	base   string
	target func() string // address of the relay
	host   string
	status atomic.Value // of the authorization
	cert   []byte
	thumb  string // of the account's key
	orders atomic.Int32
}

func (f *fakeACME) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Replay-Nonce", "bm9uY2U")
	var jws struct{ Protected, Payload string }
	_ = json.NewDecoder(r.Body).Decode(&jws)
	payload, _ := base64.RawURLEncoding.DecodeString(jws.Payload)
	answer := func(status int, v any) {
		w.WriteHeader(status)
		if err := json.NewEncoder(w).Encode(v); err != nil {
			f.t.Error(err)
		}
	}
	order := func() map[string]any {
		o := map[string]any{
			"status": "pending", "identifiers": []any{map[string]string{"type": "dns", "value": f.host}},
			"authorizations": []string{f.base + "/authz"}, "finalize": f.base + "/finalize",
		}
		switch {
		case f.cert != nil:
			o["status"], o["certificate"] = "valid", f.base+"/cert"
		case f.status.Load() == "valid":
			o["status"] = "ready"
		}
		return o
	}
	switch r.URL.Path {
	case "/dir":
		answer(http.StatusOK, map[string]string{
			"newNonce": f.base + "/nonce", "newAccount": f.base + "/acct", "newOrder": f.base + "/orders", "revokeCert": f.base + "/x", "keyChange": f.base + "/y",
		})
	case "/nonce":
	case "/acct":
		f.noteKey(jws.Protected)
		w.Header().Set("Location", f.base+"/acct/1")
		answer(http.StatusCreated, map[string]string{"status": "valid"})
	case "/orders":
		f.orders.Add(1)
		w.Header().Set("Location", f.base+"/order")
		answer(http.StatusCreated, order())
	case "/order":
		answer(http.StatusOK, order())
	case "/authz":
		answer(http.StatusOK, map[string]any{
			"status": f.status.Load(), "identifier": map[string]string{"type": "dns", "value": f.host},
			"challenges": []any{map[string]any{"type": "tls-alpn-01", "url": f.base + "/chal", "token": "a-token", "status": f.status.Load()}},
		})
	case "/chal":
		f.status.Store(f.prove())
		answer(http.StatusOK, map[string]any{"type": "tls-alpn-01", "url": f.base + "/chal", "token": "a-token", "status": f.status.Load()})
	case "/finalize":
		var body struct{ CSR string }
		_ = json.Unmarshal(payload, &body)
		der, _ := base64.RawURLEncoding.DecodeString(body.CSR)
		csr, err := x509.ParseCertificateRequest(der)
		if err != nil || !slices.Equal(csr.DNSNames, []string{f.host}) {
			f.t.Errorf("request for a certificate: %v", err)
			answer(http.StatusBadRequest, nil)
			return
		}
		f.cert = f.sign(f.host, csr.PublicKey)
		w.Header().Set("Location", f.base+"/order")
		answer(http.StatusOK, order())
	case "/cert":
		w.Header().Set("Content-Type", "application/pem-certificate-chain")
		for _, der := range [][]byte{f.cert, f.authority.cert.Raw} {
			_ = pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: der})
		}
	default:
		f.t.Errorf("%s %s", r.Method, r.URL)
		http.NotFound(w, r)
	}
}

// noteKey remembers the account's key.
func (f *fakeACME) noteKey(protected string) {
	var head struct{ JWK struct{ X, Y string } }
	data, _ := base64.RawURLEncoding.DecodeString(protected)
	_ = json.Unmarshal(data, &head)
	x, _ := base64.RawURLEncoding.DecodeString(head.JWK.X)
	y, _ := base64.RawURLEncoding.DecodeString(head.JWK.Y)
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
	if err == nil {
		f.thumb, err = acme.JWKThumbprint(key)
	}
	if err != nil {
		f.t.Error(err)
	}
}

// prove connects as RFC 8737 section 3 says and returns the status that follows.
func (f *fakeACME) prove() string {
	conn, err := tls.Dial("tcp", f.target(), &tls.Config{ServerName: f.host, NextProtos: []string{acme.ALPNProto}, InsecureSkipVerify: true})
	if err != nil {
		f.t.Errorf("challenge: %v", err)
		return "invalid"
	}
	defer conn.Close()
	state := conn.ConnectionState()
	digest := sha256.Sum256([]byte("a-token." + f.thumb))
	want, _ := asn1.Marshal(digest[:])
	for _, e := range state.PeerCertificates[0].Extensions {
		if e.Id.String() == "1.3.6.1.5.5.7.1.31" && e.Critical && bytes.Equal(e.Value, want) && state.NegotiatedProtocol == acme.ALPNProto {
			return "valid"
		}
	}
	f.t.Errorf("challenge: %s, extensions %v", state.NegotiatedProtocol, state.PeerCertificates[0].Extensions)
	return "invalid"
}

func TestACME(t *testing.T) {
	f := &fakeACME{authority: newAuthority(t), host: "relay.example"}
	f.status.Store("pending")
	web := httptest.NewServer(f)
	defer web.Close()
	f.base = web.URL
	cfg := Config{
		Addr: "127.0.0.1:0", STUNAddr: "none", CaptiveAddr: "127.0.0.1:0", Access: Access{Mode: AccessEveryone},
		ACME: &ACME{Hosts: []string{f.host}, CacheDir: t.TempDir(), DirectoryURL: f.base + "/dir", Contact: "root@relay.example"},
	}
	for round := range 2 { // the second takes it from the cache
		ready := make(chan struct{})
		cfg.Logger = slog.New(slog.NewTextHandler(&until{text: "certificate ready", done: ready}, nil))
		s, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		f.target = func() string { return s.Addr().String() }
		stop := run(t, s)
		select {
		case <-ready:
		case <-time.After(patience):
			t.Fatal("no certificate")
		}
		for _, name := range []string{f.host, ""} { // no name: that of the first host
			conn, err := tls.Dial("tcp", s.Addr().String(), &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
			if err != nil {
				t.Fatal(err)
			}
			state := conn.ConnectionState()
			if _, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: f.pool, DNSName: f.host}); err != nil || state.NegotiatedProtocol != "http/1.1" {
				t.Errorf("name %q: %s, %v", name, state.NegotiatedProtocol, err)
			}
			_ = conn.Close()
		}
		if _, err := tls.Dial("tcp", s.Addr().String(), &tls.Config{ServerName: "other.example", InsecureSkipVerify: true}); err == nil {
			t.Error("a certificate for another name")
		}
		if !s.names.has(f.host+":443", nil) {
			t.Error("the relay does not know its name")
		}
		if got := f.orders.Load(); got != 1 {
			t.Errorf("round %d: %d orders", round, got)
		}
		stop()
	}
}

// until is a writer that waits for a text.
type until struct {
	text string
	done chan struct{}
}

func (u *until) Write(b []byte) (int, error) {
	if strings.Contains(string(b), u.text) && u.done != nil {
		close(u.done)
		u.done = nil
	}
	return len(b), nil
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
