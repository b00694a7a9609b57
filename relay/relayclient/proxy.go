package relayclient

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/proxy"

	"github.com/nodetun/nodetun/identity"
)

// ErrProxy is returned by Dial when the proxy refuses, or is not there.
var ErrProxy = errors.New("proxy")

// proxyFor returns the proxy for the relay of cfg, nil for none.
func proxyFor(cfg *Config) *url.URL {
	if cfg.Proxy == nil {
		return nil
	}
	return cfg.Proxy(cfg.URL.Parsed())
}

// proxyAddress is where a proxy listens; what it does not say is as usual.
func proxyAddress(p *url.URL) string {
	port := p.Port()
	switch {
	case port != "":
	case isSOCKS(p):
		port = "1080"
	default:
		port = "80"
	}
	return net.JoinHostPort(p.Hostname(), port)
}

func isSOCKS(p *url.URL) bool { return p.Scheme == "socks5" || p.Scheme == "socks5h" }

// dialFunc is a proxy.Dialer, and of the kind that knows contexts.
type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

func (f dialFunc) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return f(ctx, network, address)
}

func (f dialFunc) Dial(network, address string) (net.Conn, error) {
	return f(context.Background(), network, address)
}

// askSOCKS asks a proxy that speaks SOCKS 5 (RFC 1928), to which conn leads, for a
// connection to target, whose name it resolves.
func askSOCKS(ctx context.Context, conn net.Conn, p *url.URL, target string) (net.Conn, error) {
	var auth *proxy.Auth
	if p.User != nil {
		password, _ := p.User.Password()
		auth = &proxy.Auth{User: p.User.Username(), Password: password}
	}
	there := dialFunc(func(context.Context, string, string) (net.Conn, error) { return conn, nil })
	dialer, err := proxy.SOCKS5("tcp", proxyAddress(p), auth, there)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProxy, err)
	}
	conn, err = dialer.(proxy.ContextDialer).DialContext(ctx, "tcp", target)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProxy, err)
	}
	return conn, nil
}

// tunnel asks a proxy for a connection to target, "host:port" (RFC 9110 9.3.6).
// What it sends behind its answer is the relay's and stays in the connection that
// is returned. ctx ending closes conn elsewhere.
func tunnel(conn net.Conn, p *url.URL, target string) (net.Conn, error) {
	request := "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n"
	if user := p.User; user != nil {
		password, _ := user.Password()
		request += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)) + "\r\n"
	}
	if _, err := conn.Write([]byte(request + "\r\n")); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProxy, err)
	}
	limited := &limitedConn{Conn: conn, left: maxResponse}
	br := bufio.NewReader(limited)
	response, err := http.ReadResponse(br, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProxy, err)
	}
	if response.StatusCode/100 != 2 {
		_ = response.Body.Close()
		return nil, fmt.Errorf("%w: %s", ErrProxy, identity.Clean(response.Status, 64))
	}
	if first, _ := br.Peek(br.Buffered()); len(first) > 0 {
		return &prefixedConn{Conn: conn, first: append([]byte(nil), first...)}, nil
	}
	return conn, nil
}

// limitedConn bounds how much may be read.
type limitedConn struct {
	net.Conn
	left int
}

func (c *limitedConn) Read(b []byte) (int, error) {
	if c.left <= 0 {
		return 0, errors.New("the answer is too long")
	}
	n, err := c.Conn.Read(b[:min(len(b), c.left)])
	c.left -= n
	return n, err
}

// prefixedConn yields what was read already.
type prefixedConn struct {
	net.Conn
	first []byte
}

func (c *prefixedConn) Read(b []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(b, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

// proxyTimeout is how long a proxy may take to accept a connection.
const proxyTimeout = 4 * time.Second

// dialThrough opens the TCP connection to the relay, or to a proxy, which is returned
// with it and has to be asked for the relay. One that is not there does not count: the
// relay may be reached all the same.
func dialThrough(ctx context.Context, cfg *Config) (net.Conn, *url.URL, error) {
	p := proxyFor(cfg)
	if p == nil {
		conn, err := dialTCP(ctx, cfg, relayAddress(cfg))
		return conn, nil, err
	}
	short, cancel := context.WithTimeout(ctx, proxyTimeout)
	defer cancel()
	conn, err := dialTCP(short, cfg, proxyAddress(p))
	if err == nil {
		return conn, p, nil
	}
	if conn, direct := dialTCP(ctx, cfg, relayAddress(cfg)); direct == nil {
		if cfg.Logger != nil {
			cfg.Logger.Debug("relay dialled without the proxy", "err", err)
		}
		return conn, nil, nil
	}
	return nil, nil, fmt.Errorf("%w: %w", ErrProxy, err)
}

// ask asks the proxy to which conn leads for the relay. ctx ending closes conn elsewhere.
func ask(ctx context.Context, conn net.Conn, p *url.URL, cfg *Config) (net.Conn, error) {
	target := rootless(relayAddress(cfg))
	if isSOCKS(p) {
		return askSOCKS(ctx, conn, p, target)
	}
	return tunnel(conn, p, target)
}

// rootless takes the dot of the root from the host of host:port: it keeps the system from
// searching for the name, and others do not know it.
func rootless(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return net.JoinHostPort(strings.TrimSuffix(host, "."), port)
}
