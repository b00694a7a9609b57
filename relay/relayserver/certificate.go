package relayserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
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
)

// reloadEvery is how often a handshake looks whether the certificate's files have
// changed.
const reloadEvery = 10 * time.Second

// ACME is how certificates are got (RFC 8555), by the challenge tls-alpn-01 on the
// relay's port, or http-01 on CaptiveAddr if that is set.
type ACME struct {
	// Hosts are the names to get certificates for. Asking for one accepts the terms
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

// onLoopback reports whether an address to listen on is reached from this machine only.
func onLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback() || host == "localhost"
}

// loadTLS makes c.TLS from whatever names the certificate; it stays nil only in Dev, and
// on loopback.
func (c *Config) loadTLS() error {
	switch {
	case c.TLS != nil:
		c.TLS = c.TLS.Clone()
	case c.ACME != nil:
		if len(c.ACME.Hosts) == 0 || c.ACME.CacheDir == "" {
			return errors.New("ACME needs the names of this relay and a directory for its certificates")
		}
	case c.CertFile != "" && c.KeyFile != "":
		file, err := openCertificate(c.CertFile, c.KeyFile, c.Logger)
		if err != nil {
			return err
		}
		c.TLS = &tls.Config{GetCertificate: file.get}
		c.leaf = file.leaf
	case c.CertFile != "" || c.KeyFile != "":
		return errors.New("a certificate file and a key file belong together")
	case !c.Dev && !onLoopback(c.Addr): // there a proxy of this machine ends TLS
		return ErrNoCertificate
	}
	if c.TLS != nil {
		// An upgrade is a thing of HTTP/1.1: h2 must not be agreed on.
		harden(c.TLS, "http/1.1")
	}
	return nil
}

// harden sets what is not a matter of choice.
func harden(t *tls.Config, protocols ...string) {
	t.MinVersion = max(t.MinVersion, tls.VersionTLS12)
	t.NextProtos = protocols
	t.DynamicRecordSizingDisabled = true
}

// certificate is a pair of files that may be replaced while the relay runs, as tools
// do that renew certificates.
type certificate struct {
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

func openCertificate(certFile, keyFile string, logger *slog.Logger) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, logger: logger, looked: time.Now()}
	stamp, err := c.look()
	if err == nil {
		err = c.load(stamp)
	}
	if err != nil {
		return nil, fmt.Errorf("relay certificate: %w", err)
	}
	return c, nil
}

func (c *certificate) look() (fileStamp, error) {
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

func (c *certificate) load(stamp fileStamp) error {
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return err
	}
	c.now, c.stamp = &pair, stamp
	return nil
}

// get returns the certificate in the files, or, while they are being replaced or are
// broken, the last good one.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) < reloadEvery {
		return c.now, nil
	}
	c.looked = time.Now()
	stamp, err := c.look()
	if err != nil || stamp == c.stamp || stamp == c.refused {
		return c.now, nil //nolint:nilerr // the last good one serves on
	}
	if err := c.load(stamp); err != nil {
		c.refused = stamp
		c.logger.Warn("relay certificate: the new files cannot be used, the old certificate stays", "error", err)
		return c.now, nil
	}
	c.logger.Info("relay certificate read again", "file", c.certFile)
	return c.now, nil
}

// leaf returns the certificate that clients see now.
func (c *certificate) leaf() *x509.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	return leafOf(*c.now)
}

// leafOf returns the parsed certificate, nil for a bad one.
func leafOf(c tls.Certificate) *x509.Certificate {
	if c.Leaf != nil || len(c.Certificate) == 0 {
		return c.Leaf
	}
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		return nil
	}
	return leaf
}

// acmeManager gets certificates; what it asks the authority ends with ctx.
func acmeManager(ctx context.Context, a *ACME) *autocert.Manager {
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

// acmeTLS returns a TLS configuration with the manager's certificates. Clients that
// name no host get that of the first.
func acmeTLS(m *autocert.Manager, first string) *tls.Config {
	t := &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if hello.ServerName == "" {
			named := *hello
			named.ServerName = first
			hello = &named
		}
		return m.GetCertificate(hello)
	}}
	harden(t, "http/1.1", acme.ALPNProto)
	return t
}

// fetchCertificates has every certificate before the first client comes, and says
// how that went.
func (s *Server) fetchCertificates() {
	for _, host := range s.cfg.ACME.Hosts {
		// What a client with elliptic curves would say.
		hello := &tls.ClientHelloInfo{
			ServerName:       host,
			CipherSuites:     []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
			SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
			SupportedCurves:  []tls.CurveID{tls.CurveP256},
		}
		cert, err := s.acme.GetCertificate(hello)
		switch {
		case s.shutdown.Err() != nil:
			return
		case err != nil:
			s.logger.Error("no certificate: clients cannot connect until there is one", "host", host, "error", err)
		default:
			s.logger.Info("certificate ready", "host", host, "until", cert.Leaf.NotAfter.Format(time.DateOnly))
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
