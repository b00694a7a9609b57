package relayserver

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/nodetun/nodetun/internal/webserver"
	"github.com/nodetun/nodetun/relay"
)

// names are those under which this relay may be dialled. A login that answers a
// challenge covers the name, so that a relay which passes the challenge on to its
// own clients gains nothing (S1).
type names struct {
	hosts []string                 // "host" with any port, or "host:port", in lower case
	certs []*x509.Certificate      // whose names are ours as well
	leaf  func() *x509.Certificate // one that may be replaced; nil: none
	plain bool                     // without a certificate our own addresses are names
}

func newNames(cfg *Config) names {
	n := names{plain: cfg.TLS == nil && cfg.ACME == nil, leaf: cfg.leaf}
	for _, host := range cfg.Hosts {
		n.hosts = append(n.hosts, strings.ToLower(host))
	}
	switch {
	case cfg.ACME != nil:
		for _, host := range cfg.ACME.Hosts {
			n.hosts = append(n.hosts, strings.ToLower(host))
		}
	case cfg.TLS != nil:
		for _, c := range cfg.TLS.Certificates {
			if leaf := webserver.LeafOf(c); leaf != nil {
				n.certs = append(n.certs, leaf)
			}
		}
	}
	return n
}

// has says that dialled, a host and a port, means this relay; local is the end of
// the connection here.
func (n names) has(dialled string, local net.Addr) bool {
	host, _, err := net.SplitHostPort(dialled)
	if err != nil || len(dialled) > 255 || dialled != strings.ToLower(dialled) {
		return false
	}
	if slices.Contains(n.hosts, host) || slices.Contains(n.hosts, dialled) {
		return true
	}
	if n.plain {
		return isLocal(dialled, local)
	}
	covers := func(c *x509.Certificate) bool { return c != nil && c.VerifyHostname(host) == nil }
	return slices.ContainsFunc(n.certs, covers) || n.leaf != nil && covers(n.leaf())
}

// isLocal says that dialled is the address and port at which the connection ends.
func isLocal(dialled string, local net.Addr) bool {
	if local == nil {
		return false
	}
	end, err := netip.ParseAddrPort(local.String())
	if err != nil {
		return false
	}
	end = netip.AddrPortFrom(end.Addr().Unmap().WithZone(""), end.Port())
	if host, ok := strings.CutPrefix(dialled, "localhost:"); ok {
		_, port, _ := net.SplitHostPort(end.String())
		return end.Addr().IsLoopback() && host == port
	}
	at, err := netip.ParseAddrPort(dialled)
	return err == nil && at == end
}

// challenge draws a challenge for a client that asks for one and dialled one of
// our names; nil for others, with the name that is none of ours.
func (s *Server) challenge(r *http.Request) (c *relay.Challenge, unknown string) {
	asked := r.Header.Values(relay.LoginHeader)
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if len(asked) != 1 {
		return nil, ""
	}
	if !s.names.has(asked[0], local) {
		return nil, asked[0]
	}
	c = &relay.Challenge{Host: asked[0]}
	_, _ = rand.Read(c.Data[:]) // never fails
	return c, ""
}

// challengeText is the value of the header that carries a challenge.
func challengeText(c *relay.Challenge) string { return hex.EncodeToString(c.Data[:]) }
