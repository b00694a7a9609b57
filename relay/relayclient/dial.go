package relayclient

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
)

const (
	// dialTimeout bounds everything from the name to the login.
	dialTimeout = 10 * time.Second
	// familyDelay is the head start of the first address family.
	familyDelay = 250 * time.Millisecond
	// writeStall is how long the relay may take nothing of what is written.
	writeStall = 10 * time.Second
	// upgradeProtocol is the value of both Upgrade headers.
	upgradeProtocol = "iroh derp http"
	// maxResponse bounds the head of the relay's answer, in bytes.
	maxResponse = 16 << 10
)

// ErrUpgrade is returned by Dial when the server answers, but not as a relay.
var ErrUpgrade = errors.New("no relay answers there")

// Config says which relay to dial, and as whom.
type Config struct {
	// URL is the relay; http means no TLS. Path and query are ignored.
	URL identity.RelayURL
	// Key is the node's own.
	Key *identity.SecretKey
	// Dial opens the TCP connection; nil means a net.Dialer with Control and DNS that
	// races both address families.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Proxy names the proxy for a relay's URL, of scheme http (CONNECT), socks5 or
	// socks5h; nil for none. A nil function means no proxy.
	Proxy func(relay *url.URL) *url.URL
	// DNS finds the addresses of the relay; nil: as package net does.
	DNS *net.Resolver
	// Control is called on each socket before it connects; it may be nil.
	Control func(network, address string, c syscall.RawConn) error
	// Token is shown to the relay, which may ask for one; empty for none. It belongs
	// to this URL and goes out over TLS and to loopback only (S2).
	Token string
	// Iroh1 tries the protocol of iroh 1.x first, as Client.Iroh1 said of the last
	// connection.
	Iroh1 bool
	// TLS is used for https; nil means the system's roots. The server name is
	// the URL's host.
	TLS *tls.Config
	// Queue holds what is to be sent; nil means a new one. The frames of a
	// queue that outlives a connection are sent on the next.
	Queue *relay.Queue
	// Logger may be nil.
	Logger *slog.Logger

	// byWebSocket: the plain upgrade did not get through, perhaps because of a proxy
	// that knows WebSocket only.
	byWebSocket bool
}

// Dial connects to a relay and logs in, in version 3 of the protocol or, if the
// server does not know that, in the one of iroh 1.x. A relay of version 3 says
// nothing to a good login, so a refusal shows only in Run. Nothing runs after Dial
// has returned.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if cfg.URL.IsZero() || cfg.Key == nil {
		return nil, errors.New("relay dial: no URL or no key")
	}
	if !tokenMayLeave(&cfg) {
		return nil, errors.New("relay dial: a token goes over https only")
	}
	c, err := dialAs(ctx, cfg, cfg.Iroh1)
	if errors.Is(err, errOther) {
		cfg.byWebSocket = !cfg.Iroh1
		c, err = dialAs(ctx, cfg, !cfg.Iroh1)
	}
	if err != nil {
		return nil, fmt.Errorf("relay dial: %w", err)
	}
	return c, nil
}

// errOther says that the server may speak the other protocol.
var errOther = fmt.Errorf("%w in this protocol", ErrUpgrade)

// dialAs dials in one of the protocols. The error is errOther when there is an HTTP
// server that does not know it.
func dialAs(ctx context.Context, cfg Config, iroh1 bool) (*Client, error) {
	raw, proxy, err := dialThrough(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	conn := relay.NewConn(raw, writeStall)
	conn.GiveUpAfter(relay.ClientPongTimeout)
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	if proxy != nil {
		conn.Conn, err = ask(ctx, raw, proxy, &cfg)
	}
	var c *Client
	if err == nil {
		c, err = logIn(ctx, cfg, conn, iroh1)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = raw.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	return c, nil
}

// tokenMayLeave says that there is no token, or that nobody on the way sees it.
func tokenMayLeave(cfg *Config) bool {
	u := cfg.URL.Parsed()
	if cfg.Token == "" || isTLS(u.Scheme) {
		return true
	}
	addr, err := netip.ParseAddr(u.Hostname())
	return err == nil && addr.IsLoopback() || strings.TrimSuffix(u.Hostname(), ".") == "localhost"
}

// relayAddress is where the relay listens, host:port.
func relayAddress(cfg *Config) string {
	u := cfg.URL.Parsed()
	port := u.Port()
	switch {
	case port != "":
	case isTLS(u.Scheme):
		port = "443"
	default:
		port = "80"
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// loginHost is the relay's name in a login, see relay.Challenge.
func loginHost(cfg *Config) string {
	return rootless(strings.ToLower(relayAddress(cfg)))
}

func dialTCP(ctx context.Context, cfg *Config, address string) (net.Conn, error) {
	dial := cfg.Dial
	if dial == nil {
		dial = (&net.Dialer{FallbackDelay: familyDelay, Control: cfg.Control, Resolver: cfg.DNS}).DialContext
	}
	return dial(ctx, "tcp", address)
}

func isTLS(scheme string) bool { return scheme != "http" && scheme != "ws" }

// logIn does everything above TCP.
func logIn(ctx context.Context, cfg Config, raw *relay.Conn, iroh1 bool) (*Client, error) {
	u := cfg.URL.Parsed()
	host := strings.TrimSuffix(u.Hostname(), ".")
	var conn net.Conn = raw
	if isTLS(u.Scheme) {
		tlsConn := tls.Client(raw, tlsConfig(cfg.TLS, host))
		if err := tlsConn.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		conn = tlsConn
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port := u.Port(); port != "" {
		host += ":" + port
	}
	c := newClient(cfg, raw)
	if iroh1 {
		s, err := openSocket(ctx, &cfg, conn, host, c.stamp)
		if err != nil {
			return nil, err
		}
		c.conn, c.iroh1 = s, !s.plain3
		return c, nil
	}
	first, login, err := upgrade(conn, host, &cfg)
	if err != nil {
		return nil, err
	}
	// The login may leave only now: a server that finds bytes behind the
	// request gives up.
	if _, err := conn.Write(login); err != nil {
		return nil, err
	}
	c.conn = newStream(conn, first, c.stamp)
	return c, nil
}

func tlsConfig(base *tls.Config, host string) *tls.Config {
	cfg := &tls.Config{}
	if base != nil {
		cfg = base.Clone()
	}
	cfg.ServerName = host
	cfg.NextProtos = nil
	cfg.MinVersion = max(cfg.MinVersion, tls.VersionTLS12)
	// Small first records are for web pages, not for packets.
	cfg.DynamicRecordSizingDisabled = true
	return cfg
}

// upgrade asks for the relay protocol and returns the login that the answer calls
// for, and what was read behind the answer. It is written by hand because net/http takes a 101 for a switch only
// with a Connection header, which iroh's relays do not send.
func upgrade(conn net.Conn, host string, cfg *Config) (first, login []byte, err error) {
	dialled := loginHost(cfg)
	request := "GET /relay HTTP/1.1\r\nHost: " + host + "\r\nConnection: Upgrade\r\nUpgrade: " + upgradeProtocol +
		"\r\n" + relay.LoginHeader + ": " + dialled + "\r\n"
	if cfg.Token != "" {
		request += "Authorization: Bearer " + cfg.Token + "\r\n"
	}
	if _, err := io.WriteString(conn, request+"\r\n"); err != nil {
		return nil, nil, err
	}
	br := bufio.NewReader(io.LimitReader(conn, maxResponse))
	response, err := http.ReadResponse(br, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrUpgrade, err)
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		_ = response.Body.Close()
		return nil, nil, statusError(response)
	}
	if got := response.Header.Get("Upgrade"); !strings.EqualFold(got, upgradeProtocol) {
		return nil, nil, fmt.Errorf("%w: it upgrades to %q", ErrUpgrade, identity.Clean(got, 32))
	}
	if login, err = loginFor(response.Header.Values(relay.ChallengeHeader), cfg.Key, dialled); err != nil {
		return nil, nil, err
	}
	first, err = br.Peek(br.Buffered())
	return first, login, err
}

// statusError is the error of a server that did not upgrade. What it does not know,
// it may know in another form.
func statusError(response *http.Response) error {
	status := response.StatusCode
	if why := response.Header.Get(relay.RefusalHeader); why != "" {
		return fmt.Errorf("%w: it says: %s", ErrUpgrade, identity.Clean(why, 200))
	}
	switch status {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusUpgradeRequired, http.StatusNotImplemented:
		return fmt.Errorf("%w: status %d", errOther, status)
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("%w: status %d", ErrRefused, status)
	}
	return fmt.Errorf("%w: status %d", ErrUpgrade, status)
}

// loginFor returns the login for a relay that sent these challenges: without one
// that of version 3.
func loginFor(challenges []string, key *identity.SecretKey, dialled string) ([]byte, error) {
	if len(challenges) == 0 {
		return relay.AppendClientInfo(nil, key), nil
	}
	c := relay.Challenge{Host: dialled}
	data, err := hex.DecodeString(challenges[0])
	if err != nil || len(challenges) != 1 || len(data) != len(c.Data) {
		return nil, fmt.Errorf("%w: its challenge is not one of %d bytes", ErrUpgrade, len(c.Data))
	}
	copy(c.Data[:], data)
	return relay.AppendChallengeLogin(nil, key, c)
}
