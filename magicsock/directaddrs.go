package magicsock

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/nodetun/nodetun/internal/netmon"
	"github.com/nodetun/nodetun/magicsock/nodemap"
)

// AddrKind says how a direct address of ours was found.
type AddrKind string

// Kinds of direct addresses, in the words of iroh-net.
const (
	AddrLocal         AddrKind = "local"          // of an interface of this host
	AddrSTUN          AddrKind = "stun"           // as seen from outside
	AddrPortmap       AddrKind = "portmap"        // of a port mapping
	AddrSTUNLocalPort AddrKind = "stun4localport" // the outside address with the bound port
	AddrPong          AddrKind = "pong"           // as peers of different networks agree to see it
)

// DirectAddr is one address at which this node may be reached.
type DirectAddr struct {
	Addr netip.AddrPort
	Kind AddrKind
}

// addrBook knows the direct addresses of this node.
type addrBook struct {
	c *Conn

	mu      sync.Mutex   // guards the fields below
	found   []DirectAddr // by SetDirectAddrs
	agreed  []DirectAddr // by what peers say
	local   []DirectAddr
	changed chan struct{} // closed and replaced at each change
}

func newAddrBook(c *Conn) *addrBook {
	return &addrBook{c: c, changed: make(chan struct{})}
}

// list is all addresses, the ones found from outside first; the first kind
// wins if an address has two.
func (b *addrBook) list() []DirectAddr {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.listLocked()
}

func (b *addrBook) listLocked() []DirectAddr {
	var list []DirectAddr
	for _, d := range slices.Concat(b.found, b.agreed, b.local) {
		if !slices.ContainsFunc(list, func(e DirectAddr) bool { return e.Addr == d.Addr }) {
			list = append(list, d)
		}
	}
	return list
}

// isLocal says that an address is one of this host's interfaces.
func (b *addrBook) isLocal(a netip.Addr) bool {
	return b.anyLocal(func(l netip.Addr) bool { return l == a.Unmap() })
}

// anyLocal says that which is true of an address of an interface.
func (b *addrBook) anyLocal(which func(netip.Addr) bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.ContainsFunc(b.local, func(d DirectAddr) bool { return which(d.Addr.Addr()) })
}

// set replaces what change does not leave alone and reports a difference.
func (b *addrBook) set(change func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.listLocked()
	change()
	if slices.Equal(before, b.listLocked()) {
		return false
	}
	close(b.changed)
	b.changed = make(chan struct{})
	return true
}

// DirectAddrs are the addresses at which this node may be reached.
func (c *Conn) DirectAddrs() []DirectAddr { return c.addrs.list() }

// WaitDirectAddrs waits until there is at least one.
func (c *Conn) WaitDirectAddrs(ctx context.Context) ([]DirectAddr, error) {
	for {
		c.addrs.mu.Lock()
		list, changed := c.addrs.listLocked(), c.addrs.changed
		c.addrs.mu.Unlock()
		if len(list) > 0 {
			return list, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("no direct address: %w", ctx.Err())
		}
	}
}

// SetDirectAddrs tells what was found from outside: by STUN, by port mappings.
// It replaces what it was told before.
func (c *Conn) SetDirectAddrs(found []DirectAddr) {
	found = slices.Clone(found)
	if c.addrs.set(func() { c.addrs.found = found }) {
		c.ownAddrsChanged()
	}
}

// refreshAddrs reads the interfaces.
func (c *Conn) refreshAddrs() {
	local, err := c.addrs.fromInterfaces()
	if err != nil {
		c.log.Warn("local addresses", "err", err)
		return
	}
	if c.addrs.set(func() { c.addrs.local = local }) {
		c.ownAddrsChanged()
	}
}

// ownAddrsChanged tells the node map, which refuses them for others (S9), and
// the application.
func (c *Conn) ownAddrsChanged() {
	own := c.addrs.own()
	c.log.Debug("direct addresses", "addrs", c.addrs.list())
	c.perform(c.paths.do(func(m *nodemap.Map) []nodemap.Action { return m.SetOwnAddrs(time.Now(), own) }))
	c.addrsChanged()
}

// loopbackOK says that loopback addresses of others may be used: a socket is
// bound to one.
func (b *addrBook) loopbackOK() bool {
	return slices.ContainsFunc(b.c.socks, func(s Socket) bool {
		return s.LocalAddr().Addr().IsLoopback()
	})
}

// fromInterfaces lists the addresses of this host that others may try: those
// of each interface with the port of the socket of that family. A socket bound
// to one address has that one only. Loopback and IPv4 link-local addresses
// count only if there is nothing else.
func (b *addrBook) fromInterfaces() ([]DirectAddr, error) {
	interfaces, err := b.c.monitor.Interfaces()
	if err != nil {
		return nil, err
	}
	var good, linkLocal, loopback []DirectAddr
	add := func(list *[]DirectAddr, addr netip.Addr, port uint16) {
		*list = append(*list, DirectAddr{Addr: netip.AddrPortFrom(addr, port), Kind: AddrLocal})
	}
	for _, s := range b.c.socks {
		bound := s.LocalAddr()
		if !bound.Addr().IsUnspecified() {
			add(&good, bound.Addr(), bound.Port())
			continue
		}
		for addr := range addresses(interfaces) {
			switch {
			case addr.Is6() != s.Is6(), b.inTun(addr):
			case addr.IsLoopback():
				add(&loopback, addr, bound.Port())
			case addr.IsGlobalUnicast():
				add(&good, addr, bound.Port())
			case addr.Is4() && addr.IsLinkLocalUnicast():
				add(&linkLocal, addr, bound.Port())
			}
		}
	}
	for _, list := range [][]DirectAddr{good, linkLocal, loopback} {
		if len(list) > 0 {
			return list, nil
		}
	}
	return nil, nil
}

// addresses yields those of the interfaces that are up.
func addresses(interfaces []netmon.Interface) func(yield func(netip.Addr) bool) {
	return func(yield func(netip.Addr) bool) {
		for _, i := range interfaces {
			if !i.IsUp() {
				continue
			}
			for _, p := range i.Addrs {
				if !yield(p.Addr()) {
					return
				}
			}
		}
	}
}

// inTun says that an address is one of the overlay.
func (b *addrBook) inTun(addr netip.Addr) bool {
	return slices.ContainsFunc(b.c.cfg.TunPrefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// own lists every address that leads back to this node, offered or not.
func (b *addrBook) own() []netip.AddrPort {
	var own []netip.AddrPort
	add := func(a netip.AddrPort) {
		if !slices.Contains(own, a) {
			own = append(own, a)
		}
	}
	for _, d := range b.list() {
		if d.Kind != AddrSTUNLocalPort { // a guess: it may be that of a neighbour behind the same NAT
			add(d.Addr)
		}
	}
	interfaces, err := b.c.monitor.AllInterfaces()
	if err != nil {
		b.c.log.Warn("own addresses", "err", err)
	}
	for _, s := range b.c.socks {
		bound := s.LocalAddr()
		if !bound.Addr().IsUnspecified() {
			add(bound)
			continue
		}
		for addr := range addresses(interfaces) {
			if addr.Is6() == s.Is6() {
				add(netip.AddrPortFrom(addr, bound.Port()))
			}
		}
	}
	return own
}

// isPrivate says that an address is of use inside some network only.
func isPrivate(a netip.Addr) bool {
	return a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || sharedSpace.Contains(a)
}

// sharedSpace is that of carrier NATs, RFC 6598.
var sharedSpace = netip.MustParsePrefix("100.64.0.0/10")
