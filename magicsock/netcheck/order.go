package netcheck

import (
	"cmp"
	"slices"
	"time"

	"github.com/nodetun/nodetun/identity"
)

// sample is one measured latency of a relay.
type sample struct {
	at      time.Time
	latency time.Duration
}

// Latencies count for historyTime. The preferred relay changes only for one that
// is faster by a third, so that two of nearly one latency do not take turns.
const (
	historyTime = 5 * time.Minute
	maxSamples  = 32
)

// remember adds the latencies of a run. c.mu is held.
func (c *Checker) remember(relays []RelayLatency, at time.Time) {
	for _, l := range relays {
		if best := l.Best(); best > 0 {
			list := c.history[l.URL]
			if len(list) >= maxSamples {
				list = slices.Delete(list, 0, 1)
			}
			c.history[l.URL] = append(list, sample{at, best})
		}
	}
}

// recent returns the best latency of a relay in the last five minutes, 0 for none.
// c.mu is held.
func (c *Checker) recent(now time.Time, url identity.RelayURL) time.Duration {
	best := time.Duration(0)
	for _, s := range c.history[url] {
		if now.Sub(s.at) < historyTime && (best == 0 || s.latency < best) {
			best = s.latency
		}
	}
	return best
}

// prefer chooses the relay of a report: the nearest of those that are there, but
// the one before while it is, too, and not clearly beaten. c.mu is held.
func (c *Checker) prefer(r *Report) identity.RelayURL {
	var best identity.RelayURL
	var bestLatency, homeLatency time.Duration
	for _, l := range r.Relays {
		latency := c.recent(r.At, l.URL)
		if l.Best() == 0 || latency == 0 {
			continue
		}
		if l.URL == c.home {
			homeLatency = latency
		}
		if best.IsZero() || latency < bestLatency {
			best, bestLatency = l.URL, latency
		}
	}
	if best.IsZero() {
		return best
	}
	if homeLatency == 0 || bestLatency <= homeLatency*2/3 {
		c.home = best
	}
	return c.home
}

// Order lists the relays, the one to use first: the preferred one, which stays so
// while no relay answers at all; the others by latency, those that were not
// measured in the order of Config, and last those of which down is true. down may
// be nil.
func (c *Checker) Order(down func(identity.RelayURL) bool) []identity.RelayURL {
	isDown := make(map[identity.RelayURL]bool)
	for _, n := range c.cfg.Relays {
		isDown[n.URL] = down != nil && down(n.URL)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	type entry struct {
		url     identity.RelayURL
		rank    int
		latency time.Duration
	}
	var list []entry
	for _, n := range c.cfg.Relays {
		if n.STUNOnly {
			continue
		}
		e := entry{url: n.URL, rank: 2, latency: c.recent(now, n.URL)}
		switch {
		case isDown[n.URL]:
			e.rank = 3
		case n.URL == c.home:
			e.rank = 0
		case e.latency > 0:
			e.rank = 1
		}
		list = append(list, e)
	}
	slices.SortStableFunc(list, func(a, b entry) int {
		if a.rank != b.rank || a.rank != 1 {
			return cmp.Compare(a.rank, b.rank)
		}
		return cmp.Compare(a.latency, b.latency)
	})
	urls := make([]identity.RelayURL, len(list))
	for i, e := range list {
		urls[i] = e.url
	}
	return urls
}
