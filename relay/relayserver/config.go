package relayserver

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"

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
	// CertFile and KeyFile name PEM files. Both or none.
	CertFile, KeyFile string
	// TLS takes the place of the files. Its protocols and its least version
	// are set by the server.
	TLS *tls.Config
	// Dev allows plain HTTP, lets everybody in if Access says nothing, and
	// turns the limits off that are not set.
	Dev bool
	// Hosts are names under which clients dial this relay, "host" or "host:port".
	// Those of the certificate need not be told. A login covers the name (S1).
	Hosts []string
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
)

// Access says who may use a relay.
type Access struct {
	Mode AccessMode
	// Nodes are those allowed or denied.
	Nodes []identity.NodeID
}

// Limits bound what one address or client may do. Zero means the default,
// which is no limit in Dev; a negative number means no limit.
type Limits struct {
	// ConnsPerPrefix is how many connections may be open from one prefix (an
	// IPv4 /24, an IPv6 /56); default 64.
	ConnsPerPrefix int
	// LoginsPerSecond is how many logins are looked at from one prefix;
	// default 20.
	LoginsPerSecond int
	// ReceivePerClient is how many bytes per second are read from one client;
	// default 4 MiB with AccessEveryone, else none.
	ReceivePerClient int
	// STUNPerSecond is how many STUN requests are answered to one prefix;
	// default 50.
	STUNPerSecond int
}

// What New may find wrong.
var (
	// ErrNoAccess is returned when nobody said who may use the relay.
	ErrNoAccess = errors.New("say who may use this relay: everyone, an allow list or a deny list (or --dev to try it out)")
	// ErrNoCertificate is returned without certificate and without Dev.
	ErrNoCertificate = errors.New("a relay needs a certificate and its key (or --dev to try it out without)")
)

// normalise checks the configuration and fills the defaults in.
func (c Config) normalise() (Config, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Access.Mode > AccessDeny {
		return c, fmt.Errorf("relay access mode %d is unknown", c.Access.Mode)
	}
	if c.Access.Mode == AccessUnset {
		if !c.Dev {
			return c, ErrNoAccess
		}
		c.Access.Mode = AccessEveryone
	}
	if err := c.loadTLS(); err != nil {
		return c, err
	}
	if c.Addr == "" {
		c.Addr = ":443"
		if c.TLS == nil {
			c.Addr = ":3340"
		}
	}
	if c.STUNAddr == "" {
		c.STUNAddr = ":3478"
	}
	c.Limits = c.Limits.normalise(c.Dev, c.Access.Mode)
	return c, nil
}

func (c *Config) loadTLS() error {
	switch {
	case c.TLS != nil:
		c.TLS = c.TLS.Clone()
	case c.CertFile != "" && c.KeyFile != "":
		cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return fmt.Errorf("relay certificate: %w", err)
		}
		c.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	case c.CertFile != "" || c.KeyFile != "":
		return errors.New("a certificate file and a key file belong together")
	case !c.Dev:
		return ErrNoCertificate
	default:
		return nil
	}
	c.TLS.MinVersion = max(c.TLS.MinVersion, tls.VersionTLS12)
	// An upgrade is a thing of HTTP/1.1: h2 must not be agreed on.
	c.TLS.NextProtos = []string{"http/1.1"}
	c.TLS.DynamicRecordSizingDisabled = true
	return nil
}

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
	set(&l.ConnsPerPrefix, 64)
	set(&l.LoginsPerSecond, 20)
	set(&l.ReceivePerClient, receive)
	set(&l.STUNPerSecond, 50)
	return l
}

// accessList decides quickly.
type accessList struct {
	mode  AccessMode
	nodes map[identity.NodeID]struct{}
}

func newAccessList(a Access) accessList {
	list := accessList{mode: a.Mode, nodes: make(map[identity.NodeID]struct{}, len(a.Nodes))}
	for _, id := range a.Nodes {
		list.nodes[id] = struct{}{}
	}
	return list
}

func (a accessList) allows(id identity.NodeID) bool {
	_, listed := a.nodes[id]
	switch a.mode {
	case AccessEveryone:
		return true
	case AccessAllow:
		return listed
	case AccessDeny:
		return !listed
	default:
		return false
	}
}
