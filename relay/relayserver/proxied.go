package relayserver

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/pires/go-proxyproto"

	"github.com/nodetun/nodetun/internal/ratelimit"
)

// trusts reports whether an address is that of a proxy of the operator.
func (s *Server) trusts(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(s.cfg.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(a) })
}

// proxiedListener reads the PROXY header, versions 1 and 2, that trusted proxies may send
// first: the addresses of such a connection are then those of the client's with the
// proxy.
type proxiedListener struct {
	net.Listener
	trusts func(netip.Addr) bool
}

// Accept waits for the next connection, not for its header.
func (l *proxiedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil || !l.trusts(addrOf(c.RemoteAddr())) {
		return c, err
	}
	return proxyproto.NewConn(c, proxyproto.WithPolicy(proxyproto.USE), proxyproto.SetReadHeaderTimeout(headTimeout)), nil
}

// clientOf returns the address of the client: that of the connection or, where a trusted
// proxy stands there, the last one in X-Forwarded-For that is no trusted proxy.
func (s *Server) clientOf(r *http.Request) netip.Addr {
	addr := addrOf(remoteOf(r))
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && s.trusts(addr); i-- {
		hop := strings.TrimSpace(hops[i])
		next, err := netip.ParseAddr(hop)
		if err != nil {
			next = addrOf(textAddr(hop)) // some add the port
		}
		if !next.IsValid() {
			break
		}
		addr = next
	}
	return addr
}

// crowd counts clients by their prefixes.
type crowd struct {
	max int // from one prefix; 0: no limit

	mu   sync.Mutex // guards open
	open map[netip.Prefix]int
}

// enter counts one in. leave is to be called once when ok, and not otherwise.
func (c *crowd) enter(a netip.Addr) (leave func(), ok bool) {
	p := ratelimit.PrefixOf(a)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.max > 0 && c.open[p] >= c.max {
		return nil, false
	}
	c.open[p]++
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.open[p]--; c.open[p] <= 0 {
			delete(c.open, p)
		}
	}), true
}
