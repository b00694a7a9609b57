package relayserver

import (
	"net/netip"
	"sync"

	"github.com/nodetun/nodetun/internal/ratelimit"
)

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
