package netcheck

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nodetun/nodetun/identity"
)

// target is one STUN server by name.
type target struct {
	host  string
	port  uint16
	name  string
	relay int // its place in Report.Relays, -1 for none
}

// targets lists the STUN servers; what has no port is left out.
func (u *run) targets() []target {
	var list []target
	place := 0
	for _, n := range u.c.cfg.Relays {
		t := target{host: n.URL.Parsed().Hostname(), port: n.STUNPort, name: n.URL.String(), relay: -1}
		if t.port == 0 {
			t.port = defaultSTUNPort
		}
		if !n.STUNOnly {
			t.relay = place
			place++
		}
		list = append(list, t)
	}
	for _, s := range u.c.cfg.STUN {
		host, port, err := net.SplitHostPort(s)
		number, portErr := strconv.ParseUint(port, 10, 16)
		if err == nil && portErr == nil && number > 0 {
			list = append(list, target{host: host, port: uint16(number), name: s, relay: -1})
		}
	}
	return list
}

// stun asks all STUN servers by both IP versions, each address once.
func (u *run) stun(ctx context.Context) {
	var resolving sync.WaitGroup
	for _, t := range u.targets() {
		resolving.Add(1)
		u.tasks.Go(func() {
			defer resolving.Done()
			for _, server := range u.resolve(ctx, t) {
				if u.enlist(t, server) {
					u.tasks.Go(func() { u.askServer(ctx, t, server) })
				}
			}
		})
	}
	u.tasks.Go(func() {
		resolving.Wait()
		u.mu.Lock()
		defer u.mu.Unlock()
		u.resolved = true
		u.checkEnough()
	})
}

// enlist notes that a server is to be asked; false when it is already. Several
// names may mean one server.
func (u *run) enlist(t target, server netip.AddrPort) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	places, known := u.places[server]
	if t.relay >= 0 {
		places = append(places, t.relay)
	}
	u.places[server] = places
	if known {
		if i := slices.IndexFunc(u.r.Mapped, func(m Mapping) bool { return m.Server == server }); i >= 0 {
			u.credit(server, u.r.Mapped[i].Latency)
		}
		return false
	}
	u.waiting++
	u.r.Asked = true
	if s := u.side(server.Addr()); !s.asked[server.Addr()] {
		s.asked[server.Addr()] = false
	}
	return true
}

// credit gives a latency to the relays at a server. u.mu is held.
func (u *run) credit(server netip.AddrPort, latency time.Duration) {
	for _, place := range u.places[server] {
		if l := &u.r.Relays[place]; server.Addr().Is4() {
			l.STUNv4 = latency
		} else {
			l.STUNv6 = latency
		}
	}
}

func (u *run) side(a netip.Addr) *side {
	if a.Is4() {
		return &u.sides[0]
	}
	return &u.sides[1]
}

// resolve returns one address of each IP version that the host has.
func (u *run) resolve(ctx context.Context, t target) []netip.AddrPort {
	addrs, err := u.c.lookup(ctx, t.host)
	if err != nil {
		u.c.cfg.Logger.Debug("netcheck: lookup", "host", t.host, "err", err)
		u.relayError(t.relay, err)
	}
	var out []netip.AddrPort
	for i, is4 := range []bool{true, false} {
		at := slices.IndexFunc(addrs, func(a netip.Addr) bool { return a.Unmap().Is4() == is4 })
		if at >= 0 && u.sides[i].have { // which never changes
			out = append(out, netip.AddrPortFrom(addrs[at].Unmap(), t.port))
		}
	}
	return out
}

const (
	lookupTime = 1500 * time.Millisecond
	// knownTime is how long the addresses of a host known from before are not used
	// yet while the host is looked up anew.
	knownTime = 500 * time.Millisecond
)

// lookup resolves a host unless it is an address. When that fails, what it gave
// before is returned: an outage of DNS is none of STUN.
func (c *Checker) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	c.mu.Lock()
	known := c.hosts[host]
	c.mu.Unlock()
	limit := lookupTime
	if len(known) > 0 {
		limit = knownTime
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	addrs, err := c.cfg.Lookup(ctx, host)
	if err != nil || len(addrs) == 0 {
		if len(known) > 0 {
			return known, nil
		}
		return nil, cmp.Or(err, errNoHost)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hosts[host] = slices.Clone(addrs[:min(len(addrs), maxAddrs)])
	return addrs, nil
}

// maxAddrs is how many addresses of a host are kept.
const maxAddrs = 16

// maxErr is how much of an error is kept; it may hold what a server said (S22).
const maxErr = 200

var errNoHost = errors.New("the host has no address")

// relayError notes why a relay does not answer.
func (u *run) relayError(place int, err error) {
	if place < 0 {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.r.Relays[place].Err = identity.Clean(err.Error(), maxErr)
}

// askServer asks one server and uses its answer.
func (u *run) askServer(ctx context.Context, t target, server netip.AddrPort) {
	number := 0
	a, err := u.c.exchange(ctx, server, func(b []byte, to netip.AddrPort) error {
		u.sending.Lock()
		defer u.sending.Unlock()
		if number == 0 {
			u.sent++
			number = u.sent
		}
		return u.c.cfg.Send(b, to)
	})
	if err != nil {
		u.unanswered(server, err)
		return
	}
	u.mu.Lock()
	u.waiting--
	s := u.side(server.Addr())
	s.left, s.asked[server.Addr()] = true, true
	u.r.Mapped = append(u.r.Mapped, Mapping{Server: server, Name: t.name, Addr: a.addr, Latency: a.latency, number: number})
	u.credit(server, a.latency)
	hairpin := u.full && server.Addr().Is4() && !u.hairpin
	u.hairpin = u.hairpin || hairpin
	u.checkEnough()
	u.mu.Unlock()
	u.tell("%s sees us as %s (%.1f ms)", t.name, a.addr, float64(a.latency)/1e6)
	if hairpin {
		u.tasks.Go(func() { u.tryHairpin(ctx, a.addr) })
	}
	u.interim()
}

// unanswered notes that a server gave no answer.
func (u *run) unanswered(server netip.AddrPort, err error) {
	u.c.cfg.Logger.Debug("netcheck: STUN", "server", server, "err", err)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.waiting--
	s := u.side(server.Addr())
	switch {
	case errors.Is(err, errNoAnswer):
		s.left = true
		for _, place := range u.places[server] {
			u.relays[place].silent = true
		}
	case !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded):
		s.refused = true
	}
	u.checkEnough()
}
