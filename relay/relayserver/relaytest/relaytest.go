package relaytest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay/relayserver"
)

// Relay is a relay that runs until the test ends.
type Relay struct {
	// URL is where it is reached.
	URL identity.RelayURL
	// STUN is the address of its STUN server; zero if it has none.
	STUN netip.AddrPort
	// Server is the relay itself.
	Server *relayserver.Server

	stop context.CancelFunc
	done chan struct{}
}

// Start runs a relay on loopback until the test ends. Addresses that cfg leaves
// empty are free ports of 127.0.0.1; without TLS it is a Dev relay.
func Start(t testing.TB, cfg relayserver.Config) *Relay {
	t.Helper()
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:0"
	}
	if cfg.STUNAddr == "" {
		cfg.STUNAddr = "127.0.0.1:0"
	}
	scheme := "https"
	if cfg.TLS == nil && cfg.CertFile == "" {
		cfg.Dev = true
		scheme = "http"
	}
	server, err := relayserver.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Listen(); err != nil {
		t.Fatal(err)
	}
	url, err := identity.ParseRelayURL(scheme + "://" + server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &Relay{URL: url, STUN: server.STUNAddr(), Server: server, stop: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		if err := server.Run(ctx); err != nil {
			t.Errorf("relay: %v", err)
		}
	}()
	t.Cleanup(r.Stop)
	return r
}

// Stop ends the relay and waits until it is gone. It may be called again.
func (r *Relay) Stop() {
	r.stop()
	<-r.done
}

// TLS returns a server configuration with a fresh self-signed certificate for
// localhost and 127.0.0.1, and the pool that trusts it.
func TLS(t testing.TB) (*tls.Config, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		IsCA:         true,
		KeyUsage:     x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,

		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, pool
}
