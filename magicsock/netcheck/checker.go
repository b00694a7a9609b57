package netcheck

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
)

// Config is what New takes. Only Send is required. What is called with a context
// has to return when that ends: Run waits for it.
type Config struct {
	// Send sends a STUN packet from the data socket of the family of to. It must
	// not block.
	Send func(b []byte, to netip.AddrPort) error
	// Relays are asked for their latency; those that serve STUN also for our address.
	Relays []relay.Node
	// STUN are servers besides, "host:port".
	STUN []string
	// HaveV4 and HaveV6 say that the host has addresses of that family. Nil: yes.
	HaveV4, HaveV6 func() bool
	// PortmapProbe asks the router which protocols it speaks; false when it was
	// not asked. Nil: it never is.
	PortmapProbe func(ctx context.Context) (Portmap, bool)
	// Control is given each TCP and ICMP socket before it connects. May be nil.
	Control func(network, address string, c syscall.RawConn) error
	// DNS finds addresses; nil: as package net does.
	DNS *net.Resolver
	// Dial connects for HTTP. Nil: a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Lookup resolves a name. Nil: DNS does.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	// Proxy is for the requests to relays; nil: none.
	Proxy func(*http.Request) (*url.URL, error)
	// InsecureTLS accepts any certificate. For tests.
	InsecureTLS bool
	// NoICMP sends no echo requests; they need root.
	NoICMP bool
	// Addrs is called, with no lock held, at the first answer of a run and as soon as
	// it finds an address outside that differs from that of Last, or another verdict
	// on the NAT; Last shows it then. May be nil.
	Addrs func()
	// Progress is told each step, one call at a time. May be nil.
	Progress func(Progress)
	// Logger gets lines at debug level. Nil discards.
	Logger *slog.Logger
}

// Checker makes reports. Make it with New.
type Checker struct {
	cfg Config

	mu       sync.Mutex // guards the fields below
	inflight map[txID]*flight
	last     *Report
	observed []observation
	history  map[identity.RelayURL][]sample
	webAsked map[identity.RelayURL]time.Time
	hosts    map[string][]netip.Addr
	home     identity.RelayURL // the last one that was preferred
}

// flight is a request that waits for its answer.
type flight struct {
	server netip.AddrPort
	sent   time.Time
	answer chan answer // holds one
	echo   bool        // it is to come back as it left
}

// answer is what came back.
type answer struct {
	addr    netip.AddrPort
	latency time.Duration
}

// observation is what a peer saw.
type observation struct {
	from, seen netip.AddrPort
	at         time.Time
}

// Bounds of what is kept.
const (
	maxInflight = 512
	maxObserved = 16
	observedFor = 30 * time.Second
)

// New prepares a Checker. It starts nothing.
func New(cfg Config) *Checker {
	yes := func() bool { return true }
	if cfg.HaveV4 == nil {
		cfg.HaveV4 = yes
	}
	if cfg.HaveV6 == nil {
		cfg.HaveV6 = yes
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{Control: cfg.Control, Resolver: cfg.DNS}).DialContext
	}
	if cfg.Lookup == nil {
		cfg.Lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return cfg.DNS.LookupNetIP(ctx, "ip", host)
		}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Checker{
		cfg: cfg, inflight: make(map[txID]*flight), history: make(map[identity.RelayURL][]sample),
		webAsked: make(map[identity.RelayURL]time.Time), hosts: make(map[string][]netip.Addr),
	}
}

// Last returns the latest report, also while the next is being made; nil before
// the first.
func (c *Checker) Last() *Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// launch makes a request and notes that its answer is to go to answers, which has
// room for one; false when too many wait.
func (c *Checker) launch(server netip.AddrPort, echo bool, answers chan answer) (txID, []byte, bool) {
	tx, b, err := bindingRequest()
	if err != nil {
		return txID{}, nil, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.inflight) >= maxInflight {
		return txID{}, nil, false
	}
	c.inflight[tx] = &flight{server: server, sent: time.Now(), answer: answers, echo: echo}
	return tx, b, true
}

// land forgets requests.
func (c *Checker) land(list ...txID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, tx := range list {
		delete(c.inflight, tx)
	}
}

// HandleSTUN takes a STUN packet that came to a data socket; b is not kept. Only
// the answer to a request in flight counts, and only from the server that was
// asked; an own request that a router sent back, from anywhere. Everything else
// costs a look into a table.
func (c *Checker) HandleSTUN(b []byte, from netip.AddrPort) {
	tx, ok := peekTx(b)
	if !ok {
		return
	}
	now := time.Now()
	from = unmap(from)
	c.mu.Lock()
	f := c.inflight[tx]
	c.mu.Unlock()
	if f == nil || !f.echo && f.server != from {
		return
	}
	_, addr, request, err := parseSTUN(b)
	if err != nil || request != f.echo || !f.echo && addr.Addr().Is4() != f.server.Addr().Is4() {
		return
	}
	select {
	case f.answer <- answer{addr: addr, latency: max(now.Sub(f.sent), 1)}:
		c.land(tx)
	default:
	}
}

// Observe notes under which address a peer saw us, when it was asked at from: a
// STUN source of last resort. Peers in our own network say nothing about what is
// outside. Each address of a peer counts once.
func (c *Checker) Observe(from, seen netip.AddrPort, at time.Time) {
	o := observation{from: unmap(from), seen: unmap(seen), at: at}
	if inside(o.from.Addr()) || inside(o.seen.Addr()) || o.seen.Port() == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.observed = slices.DeleteFunc(c.observed, func(old observation) bool { return old.from.Addr() == o.from.Addr() })
	if len(c.observed) >= maxObserved {
		c.observed = slices.Delete(c.observed, 0, 1)
	}
	c.observed = append(c.observed, o)
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// inside says that an address is of use in some network only.
func inside(a netip.Addr) bool {
	return !a.IsGlobalUnicast() || a.IsPrivate() || sharedSpace.Contains(a)
}

// sharedSpace is that of carrier NATs, RFC 6598.
var sharedSpace = netip.MustParsePrefix("100.64.0.0/10")
