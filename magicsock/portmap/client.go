package portmap

import (
	"context"
	"log/slog"
	"sync"
)

// Client keeps one mapping. Make it with New.
type Client struct {
	cfg  Config
	kick chan struct{} // holds one: something of the fields below changed

	mu      sync.Mutex // guards the fields below
	port    uint16
	mapping *Mapping
}

// New prepares a client. It starts nothing.
func New(cfg Config) *Client {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Protocols == 0 {
		cfg.Protocols = All
	}
	return &Client{cfg: cfg, kick: make(chan struct{}, 1)}
}

// Run obtains the mapping and keeps it until ctx ends, then withdraws it, which
// takes a second at most, and returns.
func (c *Client) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// SetPort names the local UDP port to map; 0 gives the mapping back.
func (c *Client) SetPort(local uint16) {
	c.mu.Lock()
	c.port = local
	c.mu.Unlock()
	c.wake()
}

// NetworkChanged says that the router may be another one, or may have
// forgotten the mapping.
func (c *Client) NetworkChanged() { c.wake() }

// Wake says that a mapping is of use now: a failed attempt may be repeated, an
// old mapping be verified.
func (c *Client) Wake() { c.wake() }

func (c *Client) wake() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
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

// Probe asks which protocols the router speaks, for two seconds at most. What
// was seen in the last ten minutes is not asked again.
func (c *Client) Probe(ctx context.Context) Seen {
	return Seen{}
}
