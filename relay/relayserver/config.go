package relayserver

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/netip"

	"github.com/nodetun/nodetun/identity"
)

// Config is what a relay is told.
type Config struct {
	// Addr is the TCP address of the relay. Empty means ":443" with a
	// certificate, else ":3340".
	Addr string
	// CaptiveAddr is a TCP address for plain HTTP that serves /generate_204
	// alone, beside HTTPS; usually ":80". Empty means none.
	CaptiveAddr string
	// STUNAddr is the UDP address of the STUN server. Empty means ":3478",
	// "none" means no STUN.
	STUNAddr string
	// CertFile and KeyFile name PEM files, which are read again when they have
	// changed. Both or none.
	CertFile, KeyFile string
	// ACME has certificates fetched, and renewed, instead. nil means not.
	ACME *ACME
	// TLS takes the place of the files. Its protocols and its least version
	// are set by the server.
	TLS *tls.Config
	// MetricsAddr is the TCP address for Prometheus; empty means none.
	MetricsAddr string
	// Profiles serves profiles of the process there too.
	Profiles bool
	// Dev allows plain HTTP, lets everybody in if Access says nothing, and
	// turns the limits off that are not set.
	Dev bool
	// Hosts are names under which clients dial this relay, "host" or "host:port".
	// Those of the certificate need not be told. A login covers the name (S1).
	Hosts []string
	// TrustedProxies are the addresses of proxies before this relay. What they say of
	// a client's address, by the PROXY protocol or in X-Forwarded-For, counts.
	TrustedProxies []netip.Prefix
	// RequireChallenge refuses logins that can be replayed, as those of iroh-net
	// 0.28 can (S2).
	RequireChallenge bool
	// LoginsFile remembers the nodes that answered a challenge: nobody gets in as
	// one of them by a replay. Empty means until the process ends.
	LoginsFile string
	// Access says who may use the relay. There is no default without Dev (S26).
	Access Access
	// Limits bound what one address or client may do.
	Limits Limits
	// Logger may be nil. Addresses and pairs of nodes are logged at debug
	// level only (S26).
	Logger *slog.Logger

	// leaf returns the certificate that was read last; nil: it is never replaced.
	leaf func() *x509.Certificate
}

// AccessMode is a way to choose who may use a relay.
type AccessMode uint8

// The ways.
const (
	// AccessUnset is no choice; a relay starts with it only in Dev.
	AccessUnset AccessMode = iota
	// AccessEveryone lets every node in.
	AccessEveryone
	// AccessAllow lets the listed nodes in.
	AccessAllow
	// AccessDeny lets all but the listed nodes in.
	AccessDeny
	// AccessToken lets those in who show one of the tokens.
	AccessToken
	// AccessHTTP asks a server of the operator.
	AccessHTTP
)

// Access says who may use a relay.
type Access struct {
	Mode AccessMode
	// Nodes are those allowed or denied.
	Nodes []identity.NodeID
	// Tokens are those of AccessToken. A client shows one in the header
	// Authorization, as "Bearer TOKEN", or in the query, as token=TOKEN.
	Tokens []string
	// URL is asked with AccessHTTP: a POST with the header X-Iroh-NodeId. The node
	// gets in if the status is 200 and the body is true, and in no other case.
	URL string
	// BearerToken is sent to URL in the header Authorization. Empty means none.
	BearerToken string
}

// Limits bound what one address, one client or all together may do. Zero means the
// default, which is no limit in Dev; a negative number means no limit.
type Limits struct {
	// Conns is how many connections may be open in all; default 20 000.
	Conns int
	// ConnsPerPrefix is how many connections may be open from one prefix (an
	// IPv4 /24, an IPv6 /56); default 64.
	ConnsPerPrefix int
	// AcceptsPerSecond is how many connections are accepted in all, and AcceptBurst
	// how many at once; the others wait in the system's queue. Default 1000 and as
	// many.
	AcceptsPerSecond, AcceptBurst int
	// LoginsPerSecond is how many logins are looked at from one prefix;
	// default 20.
	LoginsPerSecond int
	// ReceivePerClient is how many bytes per second are read from one client, and
	// ReceiveBurst how many at once; default 4 MiB with AccessEveryone, else none,
	// and 1 MiB.
	ReceivePerClient, ReceiveBurst int
	// ReceiveTotal and ReceiveTotalBurst are the same for all clients together;
	// default none, and what a second brings.
	ReceiveTotal, ReceiveTotalBurst int
	// STUNPerSecond is how many STUN requests are answered to one prefix;
	// default 50.
	STUNPerSecond int
}

// What New may find wrong.
var (
	// ErrNoAccess is returned when nobody said who may use the relay.
	ErrNoAccess = errors.New("say who may use this relay: everyone, an allow list, a deny list, a token or an HTTP server that decides (or --dev to try it out)")
	// ErrNoCertificate is returned without certificate and without Dev.
	ErrNoCertificate = errors.New("a relay needs a certificate and its key, or ACME to get them; without, it may listen on loopback, behind a proxy that has one (or --dev to try it out)")
)

// normalise checks the configuration and fills the defaults in.
func (c Config) normalise() (Config, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Access.Mode == AccessUnset && c.Dev {
		c.Access.Mode = AccessEveryone
	}
	if err := c.Access.check(); err != nil {
		return c, err
	}
	if err := c.loadTLS(); err != nil {
		return c, err
	}
	if c.Addr == "" {
		c.Addr = ":443"
		if !c.secure() {
			c.Addr = ":3340"
		}
	}
	if c.STUNAddr == "" {
		c.STUNAddr = ":3478"
	}
	c.Limits = c.Limits.normalise(c.Dev, c.Access.Mode)
	return c, nil
}

// secure says that the relay speaks TLS.
func (c *Config) secure() bool { return c.TLS != nil || c.ACME != nil }

// normalise makes 0 mean no limit and puts the defaults in.
func (l Limits) normalise(dev bool, mode AccessMode) Limits {
	set := func(v *int, preset int) {
		switch {
		case *v < 0, *v == 0 && dev:
			*v = 0
		case *v == 0:
			*v = preset
		}
	}
	receive := 0
	if mode == AccessEveryone {
		receive = 4 << 20
	}
	set(&l.Conns, 20_000)
	set(&l.ConnsPerPrefix, 64)
	set(&l.AcceptsPerSecond, 1000)
	set(&l.LoginsPerSecond, 20)
	set(&l.ReceivePerClient, receive)
	set(&l.ReceiveTotal, 0)
	set(&l.STUNPerSecond, 50)
	burst := func(v *int, preset int) {
		if *v <= 0 {
			*v = preset
		}
	}
	burst(&l.AcceptBurst, l.AcceptsPerSecond)
	burst(&l.ReceiveBurst, receiveBurst)
	burst(&l.ReceiveTotalBurst, l.ReceiveTotal)
	return l
}
