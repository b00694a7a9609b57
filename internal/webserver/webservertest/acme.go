package webservertest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/acme"
)

// ACME is a certificate authority after RFC 8555 that believes whatever is signed, but
// proves tls-alpn-01 (RFC 8737) as a real one does. It has one account and one order.
type ACME struct {
	*Authority
	// Target is the address of the server that wants a certificate for Host.
	Target func() string
	Host   string
	// Orders counts.
	Orders atomic.Int32

	base   string
	status atomic.Value // of the authorization
	issued []byte
	thumb  string // of the account's key
}

// StartACME runs one until the test ends.
func StartACME(t testing.TB, host string) *ACME {
	f := &ACME{Authority: NewAuthority(t), Host: host}
	f.status.Store("pending")
	web := httptest.NewServer(f)
	t.Cleanup(web.Close)
	f.base = web.URL
	return f
}

// Directory is its URL.
func (f *ACME) Directory() string { return f.base + "/dir" }

// ServeHTTP implements http.Handler.

func (f *ACME) ServeHTTP(w http.ResponseWriter, r *http.Request) {
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
			"status": "pending", "identifiers": []any{map[string]string{"type": "dns", "value": f.Host}},
			"authorizations": []string{f.base + "/authz"}, "finalize": f.base + "/finalize",
		}
		switch {
		case f.issued != nil:
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
		f.Orders.Add(1)
		w.Header().Set("Location", f.base+"/order")
		answer(http.StatusCreated, order())
	case "/order":
		answer(http.StatusOK, order())
	case "/authz":
		answer(http.StatusOK, map[string]any{
			"status": f.status.Load(), "identifier": map[string]string{"type": "dns", "value": f.Host},
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
		if err != nil || !slices.Equal(csr.DNSNames, []string{f.Host}) {
			f.t.Errorf("request for a certificate: %v", err)
			answer(http.StatusBadRequest, nil)
			return
		}
		f.issued = f.sign(f.Host, csr.PublicKey)
		w.Header().Set("Location", f.base+"/order")
		answer(http.StatusOK, order())
	case "/cert":
		w.Header().Set("Content-Type", "application/pem-certificate-chain")
		for _, der := range [][]byte{f.issued, f.cert.Raw} {
			_ = pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: der})
		}
	default:
		f.t.Errorf("%s %s", r.Method, r.URL)
		http.NotFound(w, r)
	}
}

// noteKey remembers the account's key.
func (f *ACME) noteKey(protected string) {
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
func (f *ACME) prove() string {
	conn, err := tls.Dial("tcp", f.Target(), &tls.Config{ServerName: f.Host, NextProtos: []string{acme.ALPNProto}, InsecureSkipVerify: true})
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

// Until is a writer that closes Done when a text was written.
type Until struct {
	Text string
	Done chan struct{}

	once sync.Once
}

// Write implements io.Writer.
func (u *Until) Write(b []byte) (int, error) {
	if strings.Contains(string(b), u.Text) {
		u.once.Do(func() { close(u.Done) })
	}
	return len(b), nil
}
