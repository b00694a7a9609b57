package portmap

import (
	"context"
	"crypto/rand"
	"log/slog"
	"sync"
	"time"
)

// Client keeps one mapping. Make it with New.
type Client struct {
	cfg  Config
	kick chan struct{} // holds one: something of the fields below changed

	mu      sync.Mutex // guards the fields below
	in      input
	cancel  context.CancelFunc // of what Run does now; nil if nothing
	router  *router            // the last one; nil before the first
	mapping *Mapping
}

// input is what Run is told between two steps.
type input struct {
	port uint16
	// changed: the network did. woke: a mapping is of use. forgot: the router
	// seems to have lost the mapping.
	changed, woke, forgot bool
}

// New prepares a client. It starts nothing.
func New(cfg Config) *Client {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Protocols == 0 {
		cfg.Protocols = All
	}
	if cfg.Secret == nil {
		cfg.Secret = make([]byte, 32)
		_, _ = rand.Read(cfg.Secret) // never fails
	}
	return &Client{cfg: cfg, kick: make(chan struct{}, 1)}
}

// Run obtains the mapping and keeps it until ctx ends, then withdraws it, which
// takes a second at most, and returns.
func (c *Client) Run(ctx context.Context) error {
	k := &keeper{c: c}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			k.giveBack(context.WithoutCancel(ctx))
			return nil
		case <-c.kick:
		case <-timer.C:
		}
		in, step, done := c.begin(ctx)
		next := k.step(step, in)
		done()
		timer.Stop()
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
	}
}

// begin takes the input for a step, and a context that NetworkChanged ends.
func (c *Client) begin(ctx context.Context) (input, context.Context, context.CancelFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	in := c.in
	c.in = input{port: in.port}
	ctx, c.cancel = context.WithCancel(ctx)
	return in, ctx, c.cancel
}

// tell changes the input.
func (c *Client) tell(change func(in *input)) {
	c.mu.Lock()
	change(&c.in)
	if c.in.changed && c.cancel != nil {
		c.cancel()
	}
	c.mu.Unlock()
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// SetPort names the local UDP port to map; 0, as at the beginning, gives the
// mapping back.
func (c *Client) SetPort(local uint16) {
	c.mu.Lock()
	same := c.in.port == local
	c.mu.Unlock()
	if !same { // telling it ends what is being asked
		c.tell(func(in *input) { in.port = local })
	}
}

// NetworkChanged says that the router may be another one, or may have
// forgotten the mapping. What is being asked at the moment is given up.
func (c *Client) NetworkChanged() { c.tell(func(in *input) { in.changed = true }) }

// Wake says that a mapping is of use now: an old one is verified.
func (c *Client) Wake() { c.tell(func(in *input) { in.woke = true }) }

// forgotten is called by the methods.
func (c *Client) forgotten() { c.tell(func(in *input) { in.forgot = true }) }

// remembered undoes forgotten: the mapping was made anew.
func (c *Client) remembered() {
	c.mu.Lock()
	c.in.forgot = false
	c.mu.Unlock()
}

// Mapping returns the mapping in force; false if there is none.
func (c *Client) Mapping() (Mapping, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mapping == nil {
		return Mapping{}, false
	}
	return *c.mapping, true
}

// publish makes m the mapping in force; nil is none.
func (c *Client) publish(m *Mapping) {
	c.mu.Lock()
	old := c.mapping
	c.mapping = m
	c.mu.Unlock()
	if same(old, m) {
		return
	}
	if m != nil {
		c.cfg.Logger.Info("port mapping", "external", m.External, "protocol", m.Protocol, "gateway", m.Gateway)
	} else {
		c.cfg.Logger.Info("port mapping ended", "external", old.External)
	}
	if c.cfg.Changed != nil {
		c.cfg.Changed()
	}
}

// same says that two mappings differ in nothing but when they expire.
func same(a, b *Mapping) bool {
	if a == nil || b == nil {
		return a == b
	}
	x := *a
	x.Expires = b.Expires
	return x == *b
}

// at returns the router for gw.
func (c *Client) at(gw Gateway) *router {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.router == nil || c.router.gw != gw {
		c.router = newRouter(c, gw)
	}
	return c.router
}

// gateway asks for the router and refuses what cannot be one.
func (c *Client) gateway() (Gateway, bool) {
	if c.cfg.Gateway == nil {
		return Gateway{}, false
	}
	gw, ok := c.cfg.Gateway()
	return gw, ok && gw.Addr.Is4() && gw.Self.Is4() && gw.Addr != gw.Self
}

// Probe asks which protocols the router speaks, for two seconds at most. What
// was seen in the last ten minutes is not asked again. When ctx ends it returns
// what is known by then.
func (c *Client) Probe(ctx context.Context) Seen {
	gw, ok := c.gateway()
	if !ok {
		return Seen{}
	}
	found := c.at(gw).look(ctx, nil)
	return Seen{UPnP: found&UPnP != 0, PCP: found&PCP != 0, NATPMP: found&NATPMP != 0}
}
