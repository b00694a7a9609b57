package magicsock

import (
	"net/netip"
	"slices"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock/nodemap"
)

// A pong says under which address its sender sees us. One node may lie, or sit
// in the same network; so a claim is believed in general only when two peers
// far from each other make it, and is otherwise told to its maker alone (S11).

// maxCallMe is the most addresses that a call-me-maybe of ours names (S9).
const maxCallMe = 32

// agreedAddrs are the addresses that nodes agree to see us under.
func (c *Conn) agreedAddrs(now time.Time) []DirectAddr {
	c.paths.mu.Lock()
	claims := c.paths.nodes.Claims(now)
	c.paths.mu.Unlock()
	var list []DirectAddr
	for _, a := range agreed(claims) {
		if usableOutside(a.Addr()) && !c.addrs.inTun(a.Addr()) {
			list = append(list, DirectAddr{Addr: a, Kind: AddrPong})
		}
	}
	return list
}

// agreed lists the addresses that two peers in different networks claim, in a
// fixed order.
func agreed(claims []nodemap.Claim) []netip.AddrPort {
	witnesses := make(map[netip.AddrPort][]netip.Prefix)
	for _, cl := range claims {
		if net := farNet(cl.From.Addr()); cl.Paired && net.IsValid() && !slices.Contains(witnesses[cl.Addr], net) {
			witnesses[cl.Addr] = append(witnesses[cl.Addr], net)
		}
	}
	var list []netip.AddrPort
	for addr, nets := range witnesses {
		if len(nets) >= 2 {
			list = append(list, addr)
		}
	}
	slices.SortFunc(list, netip.AddrPort.Compare)
	return list
}

// farNet is the /16 or /32 of an address.
func farNet(a netip.Addr) netip.Prefix {
	bits := 32
	if a.Is4() {
		bits = 16
	}
	p, _ := a.WithZone("").Prefix(bits)
	return p
}

// usableOutside says that others may reach an address at all.
func usableOutside(a netip.Addr) bool { return a.IsGlobalUnicast() && !a.Is4In6() }

// callMeAddrs are the addresses to name to a node. Private ones are for peers
// only (S11): to others they tell of the inside of a network.
func (c *Conn) callMeAddrs(node identity.NodeID) []netip.AddrPort {
	paired := c.cfg.Paired != nil && c.cfg.Paired(node)
	var list []netip.AddrPort
	add := func(a netip.AddrPort) {
		if len(list) < maxCallMe && !slices.Contains(list, a) && (paired || !IsPrivate(a.Addr())) {
			list = append(list, a)
		}
	}
	for _, d := range c.addrs.list() {
		add(d.Addr)
	}
	c.paths.mu.Lock()
	claims := c.paths.nodes.Claims(time.Now())
	c.paths.mu.Unlock()
	for _, cl := range claims {
		if cl.Node == node && usableOutside(cl.Addr.Addr()) {
			add(cl.Addr)
		}
	}
	return list
}
