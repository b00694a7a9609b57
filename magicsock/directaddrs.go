package magicsock

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nodetun/nodetun/identity"
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

// addrBook knows the direct addresses of this node. One goroutine, that of
// Conn.watch, changes it, always to what is computed then: whoever has news says
// which part is due.
type addrBook struct {
	c    *Conn
	due  atomic.Uint32 // parts to be looked at
	kick chan struct{} // holds one: due is not empty

	mu      sync.Mutex   // guards the fields below
	found   []DirectAddr // from outside: by STUN, by port mappings
	agreed  []DirectAddr // by what peers say
	local   []DirectAddr
	changed chan struct{} // closed and replaced at each change

	home identity.RelayURL // as the node map was told; watch's
}

// Parts of what a node knows of itself.
const (
	partLocal  uint32 = 1 << iota // interfaces and sockets
	partFound                     // the last report and the port mapping
	partAgreed                    // what peers say
	partRelays                    // the home relay, the state of links
)

func newAddrBook(c *Conn) *addrBook {
	return &addrBook{c: c, kick: make(chan struct{}, 1), changed: make(chan struct{})}
}

// look has parts looked at soon.
func (b *addrBook) look(parts uint32) {
	b.due.Or(parts)
	select {
	case b.kick <- struct{}{}:
	default:
	}
}

// update looks at the parts that are due, and tells the node map and the
// application what is new. It is watch's, and New's before that.
func (b *addrBook) update() {
	parts, changed := b.due.Swap(0), false
	if parts&partLocal != 0 {
		if local, err := b.fromInterfaces(); err != nil {
			b.c.log.Warn("local addresses", "err", err)
		} else {
			changed = b.set(&b.local, local)
		}
		b.c.survey.setPort()
	}
	if parts&partFound != 0 {
		changed = b.set(&b.found, b.c.survey.addrs()) || changed
	}
	if parts&partAgreed != 0 {
		changed = b.set(&b.agreed, b.c.agreedAddrs(time.Now())) || changed
	}
	if changed {
		b.tellOwn()
	}
	if parts&partRelays != 0 {
		b.tellHome()
	}
	if b.c.cfg.OnAddrsChange != nil && (changed || parts&partRelays != 0) {
		b.c.cfg.OnAddrsChange()
	}
	if parts&partFound != 0 {
		b.c.survey.found()
	}
}

// tellOwn tells the node map, which refuses them for others (S9).
func (b *addrBook) tellOwn() {
	own, host := b.own(), b.host()
	b.c.log.Debug("direct addresses", "addrs", b.list())
	b.c.perform(b.c.paths.do(func(m *nodemap.Map) []nodemap.Action { return m.SetOwnAddrs(time.Now(), own, host) }))
}

func (b *addrBook) tellHome() {
	home := b.c.relays.Home()
	if home == b.home {
		return
	}
	b.home = home
	b.c.log.Info("home relay", "url", home)
	b.c.perform(b.c.paths.do(func(m *nodemap.Map) []nodemap.Action { return m.HomeChanged(time.Now(), home) }))
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

// host is the addresses of this host's interfaces.
func (b *addrBook) host() (list []netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, d := range b.local {
		list = append(list, d.Addr.Addr().Unmap())
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

// set replaces one of the lists and reports a difference of the whole.
func (b *addrBook) set(part *[]DirectAddr, list []DirectAddr) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.listLocked()
	*part = list
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

// loopbackOK says that loopback addresses of others may be used: a socket is
// bound to one.
func (b *addrBook) loopbackOK() bool {
	return slices.ContainsFunc(b.c.socks, func(s Socket) bool {
		return s.LocalAddr().Addr().IsLoopback()
	})
}

// fromInterfaces lists the addresses of this host that others may try: those
// of each interface with the port of the socket of that family. A socket bound
// to one address has that one only. IPv4 link-local addresses count only if there is
// nothing else, loopback addresses never: others cannot reach them.
func (b *addrBook) fromInterfaces() ([]DirectAddr, error) {
	interfaces, err := b.c.monitor.Interfaces()
	if err != nil {
		return nil, err
	}
	var good, linkLocal []DirectAddr
	add := func(list *[]DirectAddr, addr netip.Addr, port uint16) {
		*list = append(*list, DirectAddr{Addr: netip.AddrPortFrom(addr, port), Kind: AddrLocal})
	}
	for _, s := range b.c.socks {
		bound := s.LocalAddr()
		if s.Unbound() != nil {
			continue
		}
		if !bound.Addr().IsUnspecified() {
			add(&good, bound.Addr(), bound.Port())
			continue
		}
		for addr := range addresses(interfaces) {
			switch {
			case addr.Is6() != s.Is6(), b.inTun(addr):
			case addr.IsGlobalUnicast():
				add(&good, addr, bound.Port())
			case addr.Is4() && addr.IsLinkLocalUnicast():
				add(&linkLocal, addr, bound.Port())
			}
		}
	}
	if len(good) == 0 {
		return linkLocal, nil
	}
	return good, nil
}

// LeftOut lists the interfaces of this host whose addresses are not offered, because
// they lead to no other machine.
func (c *Conn) LeftOut() ([]netmon.LeftOut, error) { return c.monitor.LeftOut() }

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

// IsPrivate says that an address is of use inside some network only.
func IsPrivate(a netip.Addr) bool {
	return a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || sharedSpace.Contains(a)
}

// sharedSpace is that of carrier NATs, RFC 6598.
var sharedSpace = netip.MustParsePrefix("100.64.0.0/10")
