package relayserver

import (
	"crypto/tls"
	"errors"

	"github.com/nodetun/nodetun/internal/webserver"
)

// ACME is how certificates are got, by the challenge tls-alpn-01 on the relay's port, or
// http-01 on CaptiveAddr if that is set.
type ACME = webserver.ACME

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
		file, err := webserver.OpenCertificate(c.CertFile, c.KeyFile, c.Logger)
		if err != nil {
			return err
		}
		c.TLS = &tls.Config{GetCertificate: file.Get}
		c.leaf = file.Leaf
	case c.CertFile != "" || c.KeyFile != "":
		return errors.New("a certificate file and a key file belong together")
	case !c.Dev && !webserver.OnLoopback(c.Addr): // there a proxy of this machine ends TLS
		return ErrNoCertificate
	}
	if c.TLS != nil {
		// An upgrade is a thing of HTTP/1.1: h2 must not be agreed on.
		webserver.Harden(c.TLS, "http/1.1")
	}
	return nil
}
