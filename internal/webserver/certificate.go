package webserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"

	"github.com/nodetun/nodetun/internal/filecheck"
)

// ReloadEvery is how often a handshake looks whether the certificate's files have
// changed.
const ReloadEvery = 10 * time.Second

// ACME is how certificates are got (RFC 8555), by the challenge tls-alpn-01 on the
// server's port, or http-01 on port 80 if the server answers there.
type ACME struct {
	// Hosts are the names of the server, to get certificates for. Asking for one accepts the terms
	// of the certificate authority.
	Hosts []string
	// Contact is an e-mail address for the authority. Empty means none.
	Contact string
	// CacheDir keeps account and certificates; it should outlive the process.
	CacheDir string
	// DirectoryURL is that of the authority. Empty means Let's Encrypt.
	DirectoryURL string
	// RootCAs are those by which the authority's own server is verified. nil means
	// those of the system.
	RootCAs *x509.CertPool
}

// OnLoopback reports whether an address to listen on is reached from this machine only.
func OnLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback() || host == "localhost"
}

// Harden sets what is not a matter of choice.
func Harden(t *tls.Config, protocols ...string) {
	t.MinVersion = max(t.MinVersion, tls.VersionTLS12)
	t.NextProtos = protocols
	t.DynamicRecordSizingDisabled = true
}

// Certificate is a pair of files that may be replaced while the server runs, as tools
// do that renew certificates.
type Certificate struct {
	certFile, keyFile string
	logger            *slog.Logger

	mu      sync.Mutex // guards the fields below
	now     *tls.Certificate
	stamp   fileStamp // of the files that now was read from
	looked  time.Time
	refused fileStamp // of files that could not be used
}

// fileStamp tells whether either file has changed.
type fileStamp struct{ cert, key fileID }

type fileID struct {
	modified time.Time
	size     int64
}

// OpenCertificate reads the files, in PEM. The logger is told when they are read again.
func OpenCertificate(certFile, keyFile string, logger *slog.Logger) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile, logger: logger, looked: time.Now()}
	stamp, err := c.look()
	if err == nil {
		err = c.load(stamp)
	}
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	return c, nil
}

func (c *Certificate) look() (fileStamp, error) {
	cert, err := os.Stat(c.certFile)
	if err != nil {
		return fileStamp{}, err
	}
	key, err := os.Stat(c.keyFile)
	if err != nil {
		return fileStamp{}, err
	}
	return fileStamp{fileID{cert.ModTime(), cert.Size()}, fileID{key.ModTime(), key.Size()}}, nil
}

func (c *Certificate) load(stamp fileStamp) error {
	info, err := os.Stat(c.keyFile)
	if err != nil {
		return err
	}
	if err := filecheck.Secret(c.keyFile, "the key of the certificate", info); err != nil { // S5
		return err
	}
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return err
	}
	c.now, c.stamp = &pair, stamp
	return nil
}

// Get returns the certificate in the files, or, while they are being replaced or are
// broken, the last good one.
func (c *Certificate) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) < ReloadEvery {
		return c.now, nil
	}
	c.looked = time.Now()
	stamp, err := c.look()
	if err != nil || stamp == c.stamp || stamp == c.refused {
		return c.now, nil //nolint:nilerr // the last good one serves on
	}
	if err := c.load(stamp); err != nil {
		c.refused = stamp
		c.logger.Warn("certificate: the new files cannot be used, the old certificate stays", "error", err)
		return c.now, nil
	}
	c.logger.Info("certificate read again", "file", c.certFile)
	return c.now, nil
}

// Leaf returns the certificate that clients see now.
func (c *Certificate) Leaf() *x509.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	return LeafOf(*c.now)
}

// LeafOf returns the parsed certificate, nil for a bad one.
func LeafOf(c tls.Certificate) *x509.Certificate {
	if c.Leaf != nil || len(c.Certificate) == 0 {
		return c.Leaf
	}
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		return nil
	}
	return leaf
}

// NewManager gets certificates; what it asks the authority ends with ctx.
func NewManager(ctx context.Context, a *ACME) *autocert.Manager {
	client := &acme.Client{
		DirectoryURL: a.DirectoryURL,
		UserAgent:    "nodetun",
		HTTPClient: &http.Client{
			Timeout: time.Minute,
			Transport: boundTransport{ctx, &http.Transport{
				Proxy:           http.ProxyFromEnvironment,
				TLSClientConfig: &tls.Config{RootCAs: a.RootCAs, MinVersion: tls.VersionTLS12},
				IdleConnTimeout: 10 * time.Second,
			}},
		},
	}
	return &autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		Cache:      autocert.DirCache(a.CacheDir),
		HostPolicy: autocert.HostWhitelist(a.Hosts...),
		Email:      a.Contact,
		Client:     client,
	}
}

// ManagedTLS returns a TLS configuration with the manager's certificates, for the protocols.
// Clients that name no host get that of the first.
func ManagedTLS(m *autocert.Manager, first string, protocols ...string) *tls.Config {
	t := &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if hello.ServerName == "" {
			named := *hello
			named.ServerName = first
			hello = &named
		}
		return m.GetCertificate(hello)
	}}
	Harden(t, append(protocols, acme.ALPNProto)...)
	return t
}

// Fetch has every certificate before the first client comes, and says how that went.
func Fetch(ctx context.Context, m *autocert.Manager, hosts []string, logger *slog.Logger) {
	for _, host := range hosts {
		// What a client with elliptic curves would say.
		hello := &tls.ClientHelloInfo{
			ServerName:       host,
			CipherSuites:     []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
			SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
			SupportedCurves:  []tls.CurveID{tls.CurveP256},
		}
		cert, err := m.GetCertificate(hello)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			logger.Error("no certificate: clients cannot connect until there is one", "host", host, "error", err)
		default:
			logger.Info("certificate ready", "host", host, "until", cert.Leaf.NotAfter.Format(time.DateOnly))
		}
	}
}

// boundTransport ends requests with ctx too.
type boundTransport struct {
	ctx  context.Context
	next http.RoundTripper
}

func (t boundTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	stop := context.AfterFunc(t.ctx, cancel)
	response, err := t.next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		stop()
		cancel()
		return nil, err
	}
	response.Body = &boundBody{response.Body, func() { stop(); cancel() }}
	return response, nil
}

// boundBody frees what bound the request.
type boundBody struct {
	io.ReadCloser
	free func()
}

func (b *boundBody) Close() error {
	defer b.free()
	return b.ReadCloser.Close()
}
