package magicsock

import (
	"context"
	"net/netip"
	"sync"
)

// maxTunnelled bounds how many addresses are remembered, waitingTunnels how many wait to
// be looked at.
const (
	maxTunnelled   = 1024
	waitingTunnels = 16
)

// way is what kind of way leads to an address.
type way uint8

const (
	wayPlain  way = iota + 1
	wayAsking     // through a link that is made of others: perhaps of our own TUN
	wayDetour     // through one that is not ours: good while nothing plain is there
	wayInside     // what goes there comes out of our own TUN
)

// tunnels knows which addresses are reached through tunnels: a VXLAN of Kubernetes, a
// second VPN. One that runs inside ours is no path of ours, for each packet to it would
// become another one.
type tunnels struct {
	c     *Conn
	queue chan netip.AddrPort // to be looked at, each wayAsking

	mu  sync.Mutex // guards all; nothing is waited for under it
	all map[netip.Addr]way
}

func newTunnels(c *Conn) *tunnels {
	return &tunnels{c: c, queue: make(chan netip.AddrPort, waitingTunnels), all: make(map[netip.Addr]way)}
}

// usable reports whether something may be sent to an address, or taken from it. The first
// question about one that is reached through a tunnel is answered by no; the answer to
// later ones is found out meanwhile.
func (t *tunnels) usable(to netip.AddrPort) bool {
	switch t.known(to.Addr()) {
	case wayPlain, wayDetour:
		return true
	case wayAsking, wayInside:
		return false
	}
	w := wayPlain
	switch {
	case !t.c.monitor.Tunnelled(to.Addr()):
	case t.c.cfg.Inside == nil:
		w = wayDetour
	default:
		w = wayAsking
		select {
		case t.queue <- to:
		default:
			return false
		}
	}
	t.learn(to.Addr(), w)
	return w != wayAsking
}

func (t *tunnels) known(addr netip.Addr) way {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all[addr]
}

func (t *tunnels) learn(addr netip.Addr, w way) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.all) >= maxTunnelled {
		clear(t.all)
	}
	t.all[addr] = w
}

// detour reports whether an address is known to be reached through a tunnel.
func (t *tunnels) detour(addr netip.Addr) bool { return t.known(addr) == wayDetour }

// forget has all ways looked at anew.
func (t *tunnels) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.all)
}

// run finds out where packets to the asked addresses go, until ctx ends.
func (t *tunnels) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case to := <-t.queue:
			w := wayDetour
			inside := t.c.cfg.Inside(ctx, func(b []byte) error { return t.c.write(b, 0, 0, to) })
			if inside {
				w = wayInside
				t.c.log.Info("an address is reached through our own tunnel, it is not used", "addr", to)
			}
			t.learn(to.Addr(), w)
		}
	}
}
