package webserver

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/pires/go-proxyproto"
)

// headTimeout is how long a proxy may take for the header of a connection.
const headTimeout = 10 * time.Second

// Proxies are those of the operator, whose word about their clients counts.
type Proxies []netip.Prefix

// Trust reports whether an address is that of such a proxy.
func (p Proxies) Trust(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(p, func(p netip.Prefix) bool { return p.Contains(a) })
}

// AddrOf returns the IP address of a connection's end; one without (a pipe) counts as the
// zero address.
func AddrOf(a net.Addr) netip.Addr { return parseAddr(a.String()) }

// parseAddr reads an address with a port.
func parseAddr(text string) netip.Addr {
	ap, _ := netip.ParseAddrPort(text)
	return ap.Addr()
}

// ClientOf returns the address of the client: that of the connection or, where a trusted
// proxy stands there, the last one in X-Forwarded-For that is no trusted proxy.
func (p Proxies) ClientOf(r *http.Request) netip.Addr {
	addr := parseAddr(r.RemoteAddr)
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && p.Trust(addr); i-- {
		hop := strings.TrimSpace(hops[i])
		next, err := netip.ParseAddr(hop)
		if err != nil {
			next = parseAddr(hop) // some add the port
		}
		if !next.IsValid() {
			break
		}
		addr = next
	}
	return addr
}

// Listener reads the PROXY header, versions 1 and 2, that trusted proxies may send first:
// the addresses of such a connection are then those of the client's with the proxy.
func (p Proxies) Listener(l net.Listener) net.Listener {
	if len(p) == 0 {
		return l
	}
	return &proxiedListener{l, p}
}

type proxiedListener struct {
	net.Listener
	proxies Proxies
}

// Accept waits for the next connection, not for its header.
func (l *proxiedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil || !l.proxies.Trust(AddrOf(c.RemoteAddr())) {
		return c, err
	}
	return proxyproto.NewConn(c, proxyproto.WithPolicy(proxyproto.USE), proxyproto.SetReadHeaderTimeout(headTimeout)), nil
}

// ParsePrefixes reads addresses and prefixes.
func ParsePrefixes(texts []string) (Proxies, error) {
	var list Proxies
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if addr, single := netip.ParseAddr(text); single == nil {
			p, err = addr.Prefix(addr.BitLen())
		}
		if err != nil {
			return nil, fmt.Errorf("%q is neither an address nor a prefix (such as 127.0.0.1 or 10.0.0.0/8)", text)
		}
		list = append(list, p.Masked())
	}
	return list, nil
}
