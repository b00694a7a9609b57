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

	"github.com/nodetun/nodetun/identity"
)

// ErrProxy is returned by Dial when the HTTP proxy refuses.
var ErrProxy = errors.New("http proxy")

// ProxyFromEnvironment is a value for Config.Proxy: HTTPS_PROXY, HTTP_PROXY and
// NO_PROXY or their lower-case forms, as they were when it was first asked. Relays
// at loopback addresses are reached without.
func ProxyFromEnvironment(relay *url.URL) (*url.URL, error) {
	return http.ProxyFromEnvironment(&http.Request{URL: relay})
}

// proxyFor returns the proxy for the relay of cfg, nil for none.
func proxyFor(cfg *Config) (*url.URL, error) {
	if cfg.Proxy == nil {
		return nil, nil
	}
	u := *cfg.URL.Parsed()
	u.Scheme = "http"
	if isTLS(cfg.URL.Parsed().Scheme) {
		u.Scheme = "https"
	}
	// NO_PROXY names hosts without the dot of the root.
	u.Host = strings.Replace(u.Host, u.Hostname(), strings.TrimSuffix(u.Hostname(), "."), 1)
	p, err := cfg.Proxy(&u)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProxy, err)
	}
	if p != nil && p.Scheme != "http" {
		return nil, fmt.Errorf("%w: %q proxies are not supported", ErrProxy, identity.Clean(p.Scheme, 16))
	}
	return p, nil
}

// proxyAddress is where a proxy listens, 80 if it names no port.
func proxyAddress(p *url.URL) string {
	port := p.Port()
	if port == "" {
		port = "80"
	}
	return net.JoinHostPort(p.Hostname(), port)
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

// dialThrough opens the TCP connection to the relay, through a proxy if there is
// one.
func dialThrough(ctx context.Context, cfg *Config) (net.Conn, *url.URL, error) {
	p, err := proxyFor(cfg)
	if err != nil {
		return nil, nil, err
	}
	address := relayAddress(cfg)
	if p != nil {
		address = proxyAddress(p)
	}
	conn, err := dialTCP(ctx, cfg, address)
	if err != nil && p != nil {
		err = fmt.Errorf("%w: %w", ErrProxy, err)
	}
	return conn, p, err
}
