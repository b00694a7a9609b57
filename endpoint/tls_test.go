package endpoint

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"math/big"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/nodetun/nodetun/identity"
)

// forged is a certificate with parts to be spoilt before it is made.
type forged struct {
	key        crypto.Signer
	algorithm  x509.SignatureAlgorithm
	identity   []byte
	sign       func(spki []byte) []byte
	extensions func(own pkix.Extension) []pkix.Extension
	value      func(value []byte) []byte
	from, to   time.Time
	spoil      func(der []byte) // after it was signed
	twice      bool             // sent two times
}

// genuine is a certificate of the identity, without a flaw.
func genuine(id *identity.SecretKey, key crypto.Signer) *forged {
	node := id.NodeID()
	return &forged{
		key: key, identity: node[:], sign: id.SignTLS,
		extensions: func(own pkix.Extension) []pkix.Extension { return []pkix.Extension{own} },
		value:      func(value []byte) []byte { return value },
		from:       time.Now().Add(-time.Hour), to: time.Now().Add(time.Hour),
		spoil: func([]byte) {},
	}
}

func (f *forged) make(t testing.TB) tls.Certificate {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(f.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	value, err := asn1.Marshal(signedIdentity{Identity: f.identity, Signature: f.sign(spki)})
	if err != nil {
		t.Fatal(err)
	}
	own := pkix.Extension{Id: extensionOID, Critical: true, Value: f.value(value)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: f.from, NotAfter: f.to,
		SignatureAlgorithm: f.algorithm, ExtraExtensions: f.extensions(own),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, f.key.Public(), f.key)
	if err != nil {
		t.Fatal(err)
	}
	f.spoil(der)
	chain := [][]byte{der}
	if f.twice {
		chain = append(chain, der)
	}
	return tls.Certificate{Certificate: chain, PrivateKey: f.key}
}

func ecKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// handshake runs TLS on loopback and returns what each side says. The client is
// done before the server has judged it, as in QUIC.
func handshake(t testing.TB, server, client *tls.Config) (serverErr, clientErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	a.SetDeadline(deadline)
	b.SetDeadline(deadline)
	done := make(chan error, 1)
	go func() {
		defer a.Close()
		done <- tls.Server(a, server).Handshake()
	}()
	c := tls.Client(b, client)
	if clientErr = c.Handshake(); clientErr == nil {
		_, _ = c.Read(make([]byte, 1)) // tickets, an alert or the end
	}
	b.Close()
	return <-done, clientErr
}

// S3: crypto/tls lets through more than iroh-net does. Each flaw is tried in
// both roles.
func TestTLSAttacks(t *testing.T) {
	own := identity.GenerateSecretKey()
	attacker := identity.GenerateSecretKey()
	other := identity.GenerateSecretKey()
	p256 := ecKey(t, elliptic.P256())
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, _ := ed25519.GenerateKey(rand.Reader)
	order8, _ := hex.DecodeString("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a")
	another := func(critical bool) func(pkix.Extension) []pkix.Extension {
		return func(own pkix.Extension) []pkix.Extension {
			return []pkix.Extension{own, {Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: critical, Value: []byte{5, 0}}}
		}
	}

	for _, tc := range []struct {
		name  string
		flaw  func(*forged)
		want  error // ErrCertificate or ErrWrongNode; nil: accepted
		byTLS bool  // crypto/tls itself refuses, or may do so
	}{
		{name: "genuine", flaw: func(*forged) {}},
		{name: "P-384", flaw: func(f *forged) { f.key = ecKey(t, elliptic.P384()) }},
		{name: "Ed25519", flaw: func(f *forged) { f.key = edKey }},
		{name: "extension not critical", flaw: func(f *forged) {
			f.extensions = func(own pkix.Extension) []pkix.Extension { own.Critical = false; return []pkix.Extension{own} }
		}},
		{name: "another extension", flaw: func(f *forged) { f.extensions = another(false) }},

		{name: "two certificates", flaw: func(f *forged) { f.twice = true }, want: ErrCertificate},
		{name: "RSA", flaw: func(f *forged) { f.key = rsaKey }, want: ErrCertificate},
		{name: "P-521", flaw: func(f *forged) { f.key = ecKey(t, elliptic.P521()) }, want: ErrCertificate, byTLS: true},
		{name: "P-256 with SHA-384", flaw: func(f *forged) { f.algorithm = x509.ECDSAWithSHA384 }, want: ErrCertificate},
		{name: "P-384 with SHA-256", flaw: func(f *forged) {
			f.key, f.algorithm = ecKey(t, elliptic.P384()), x509.ECDSAWithSHA256
		}, want: ErrCertificate},
		{name: "expired", flaw: func(f *forged) { f.to = time.Now().Add(-time.Minute) }, want: ErrCertificate},
		{name: "not yet valid", flaw: func(f *forged) { f.from = time.Now().Add(time.Minute) }, want: ErrCertificate},
		{name: "no extension", flaw: func(f *forged) {
			f.extensions = func(pkix.Extension) []pkix.Extension { return nil }
		}, want: ErrCertificate},
		{name: "extension twice", flaw: func(f *forged) {
			f.extensions = func(own pkix.Extension) []pkix.Extension { return []pkix.Extension{own, own} }
		}, want: ErrCertificate, byTLS: true},
		{name: "another critical extension", flaw: func(f *forged) { f.extensions = another(true) }, want: ErrCertificate},
		{name: "bytes after the extension", flaw: func(f *forged) {
			f.value = func(value []byte) []byte { return append(slices.Clone(value), 0) }
		}, want: ErrCertificate},
		{name: "bytes inside the sequence", flaw: func(f *forged) {
			f.value = func(value []byte) []byte {
				value = append(slices.Clone(value), 5, 0)
				value[1] += 2
				return value
			}
		}, want: ErrCertificate},
		{name: "length in a longer form", flaw: func(f *forged) {
			f.value = func(value []byte) []byte { return slices.Insert(slices.Clone(value), 1, byte(0x81)) }
		}, want: ErrCertificate},
		{name: "libp2p's form of the key", flaw: func(f *forged) {
			f.identity = append([]byte{8, 1, 0x12, 0x20}, f.identity...)
		}, want: ErrCertificate},
		{name: "identity of 31 bytes", flaw: func(f *forged) { f.identity = f.identity[:31] }, want: ErrCertificate},
		{name: "identity that is no point", flaw: func(f *forged) {
			f.identity = append([]byte{2}, make([]byte, 31)...)
		}, want: ErrCertificate},
		{name: "small-order identity", flaw: func(f *forged) {
			f.identity = order8
			f.sign = func([]byte) []byte { return append(slices.Clone(order8), make([]byte, 32)...) }
		}, want: ErrCertificate},
		{name: "all-zero identity", flaw: func(f *forged) { f.identity = make([]byte, 32) }, want: ErrCertificate},
		{name: "somebody else's identity", flaw: func(f *forged) {
			id := other.NodeID()
			f.identity = id[:]
		}, want: ErrCertificate},
		{name: "signature of another key", flaw: func(f *forged) {
			f.sign = func([]byte) []byte { return attacker.SignTLS([]byte("another key")) }
		}, want: ErrCertificate},
		{name: "signature cut short", flaw: func(f *forged) {
			f.sign = func(spki []byte) []byte { return attacker.SignTLS(spki)[:63] }
		}, want: ErrCertificate},
		{name: "self-signature wrong", flaw: func(f *forged) {
			f.spoil = func(der []byte) { der[len(der)-1] ^= 1 }
		}, want: ErrCertificate, byTLS: true},
		{name: "our own identity", flaw: func(f *forged) {
			id := own.NodeID()
			f.identity, f.sign = id[:], own.SignTLS
		}, want: ErrCertificate},
		{name: "wrong identity", flaw: func(f *forged) {
			id := other.NodeID()
			f.identity, f.sign = id[:], other.SignTLS
		}, want: ErrWrongNode},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := genuine(attacker, p256)
			tc.flaw(f)
			cert := f.make(t)
			theirs := &tls.Config{
				Certificates:         []tls.Certificate{cert},
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil },
				ClientAuth:           tls.RequestClientCert, InsecureSkipVerify: true, NextProtos: []string{testALPN},
			}
			check := func(role string, err, want error) {
				t.Helper()
				switch {
				case want == nil && err != nil:
					t.Errorf("%s: %v", role, err)
				case want != nil && !errors.Is(err, want) && (!tc.byTLS || err == nil):
					t.Errorf("%s: %v, want %v", role, err, want)
				}
			}

			client, err := tlsConfig(own, []string{testALPN}, attacker.NodeID(), nil)
			if err != nil {
				t.Fatal(err)
			}
			_, err = handshake(t, theirs, client)
			check("dialling", err, tc.want)

			server, err := tlsConfig(own, []string{testALPN}, identity.NodeID{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			err, _ = handshake(t, server, theirs)
			want := tc.want
			if want == ErrWrongNode {
				want = nil // a listener takes any identity that is proved
			}
			check("listening", err, want)
		})
	}
}

// S3: a peer without a certificate is refused.
func TestTLSNoCertificate(t *testing.T) {
	server, err := tlsConfig(identity.GenerateSecretKey(), []string{testALPN}, identity.NodeID{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	bare := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{testALPN}}
	if err, _ := handshake(t, server, bare); err == nil {
		t.Error("a client without a certificate is taken")
	}
}

// S3: no TLS 1.2, no session tickets, the curves of iroh-net.
func TestTLSSettings(t *testing.T) {
	server, err := tlsConfig(identity.GenerateSecretKey(), []string{testALPN}, identity.NodeID{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	client, err := tlsConfig(identity.GenerateSecretKey(), []string{testALPN}, identity.NodeID{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	cache := &countingCache{ClientSessionCache: tls.NewLRUClientSessionCache(4)}
	client.ClientSessionCache = cache
	if serverErr, err := handshake(t, server, client); err != nil || serverErr != nil {
		t.Fatal(serverErr, err)
	}
	if cache.puts != 0 {
		t.Error("the server sends session tickets")
	}
	for name, change := range map[string]func(*tls.Config){
		"TLS 1.2":  func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
		"P-521":    func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.CurveP521} },
		"new ALPN": func(c *tls.Config) { c.NextProtos = []string{"other"} },
	} {
		worse := client.Clone()
		change(worse)
		if serverErr, err := handshake(t, server, worse); err == nil || serverErr == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

type countingCache struct {
	tls.ClientSessionCache
	puts int
}

func (c *countingCache) Put(string, *tls.ClientSessionState) { c.puts++ }

// The certificate has the bytes that iroh-net's has.
func TestCertificate(t *testing.T) {
	key, err := identity.SecretKeyFromSeed(append(make([]byte, 31), 1))
	if err != nil {
		t.Fatal(err)
	}
	made, err := certificate(key)
	if err != nil {
		t.Fatal(err)
	}
	der := made.Certificate[0]
	if len(der) < 380 || len(der) > 390 {
		t.Errorf("%d bytes", len(der))
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if cert.Version != 3 || len(cert.Subject.Names) != 0 || len(cert.Issuer.Names) != 0 || len(cert.SerialNumber.Bytes()) != 20 {
		t.Errorf("version %d, subject %v, issuer %v, serial %x", cert.Version, cert.Subject, cert.Issuer, cert.SerialNumber)
	}
	if got := cert.NotBefore.Format(time.DateOnly) + " " + cert.NotAfter.Format(time.DateOnly); got != "1975-01-01 4096-01-01" {
		t.Errorf("valid %s", got)
	}
	if len(cert.Extensions) != 1 || !cert.Extensions[0].Critical || cert.Extensions[0].Id.String() != "1.3.6.1.4.1.53594.1.1" {
		t.Fatalf("extensions %+v", cert.Extensions)
	}
	id := key.NodeID()
	value := cert.Extensions[0].Value
	if len(value) != 102 || !bytes.Equal(value[:4], []byte{0x30, 100, 4, 32}) || !bytes.Equal(value[4:36], id[:]) || !bytes.Equal(value[36:38], []byte{4, 64}) {
		t.Errorf("extension %x", value)
	}
	if !ed25519.Verify(id[:], append([]byte("libp2p-tls-handshake:"), cert.RawSubjectPublicKeyInfo...), value[38:]) {
		t.Error("the signature does not verify")
	}
	second, err := certificate(key)
	if err != nil || bytes.Equal(second.Certificate[0], der) {
		t.Error("two certificates are the same")
	}
}

// Never a panic, whatever a certificate holds.
func FuzzCertificate(f *testing.F) {
	cert, err := certificate(identity.GenerateSecretKey())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(cert.Certificate[0])
	f.Add([]byte{0x30, 0x80})
	f.Fuzz(func(_ *testing.T, der []byte) {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		_, _ = peerID(tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}})
	})
}
