package netmon

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
)

// Interface is one network interface with its addresses.
type Interface struct {
	Name  string
	Index int
	Flags net.Flags
	// Kind is the kernel's word for what made it (bridge, veth, vxlan …), empty where
	// that is not known; Master the index of the bridge that it is a port of.
	Kind   string
	Master int
	// Addrs holds each address with the length of its network's prefix.
	Addrs []netip.Prefix
}

// IsUp says that the interface is up, which it may be without a cable.
func (i Interface) IsUp() bool { return i.Flags&net.FlagUp != 0 }

// IsRunning says that the interface is up and can carry packets.
func (i Interface) IsRunning() bool { return i.IsUp() && i.Flags&net.FlagRunning != 0 }

// IsLoopback says that it is a loopback interface.
func (i Interface) IsLoopback() bool { return i.Flags&net.FlagLoopback != 0 }

// Gateway is the router through which this host reaches the world by IPv4.
type Gateway struct {
	// Addr is its address on our side.
	Addr netip.Addr
	// Self is the address of this host that it sees.
	Self netip.Addr
	// Interface leads there.
	Interface string
}

// route is a default route: through which interface, over which gateway.
type route struct {
	is6     bool
	metric  int // smaller is better
	index   int
	gateway netip.Addr // zero: the interface leads there by itself
	self    netip.Addr // the source address, if the route names one
}

func (r route) compare(o route) int {
	family := 0
	if r.is6 != o.is6 {
		family = 1
		if o.is6 {
			family = -1
		}
	}
	return cmp.Or(family, cmp.Compare(r.metric, o.metric), cmp.Compare(r.index, o.index),
		r.gateway.Compare(o.gateway), r.self.Compare(o.self))
}

// state is what is compared.
type state struct {
	interfaces []Interface
	routes     []route // in the order of compare
}

func (s state) equal(o state) bool { return reflect.DeepEqual(s, o) }

// lost says that what old paths may stand on has changed: see Event.Major.
func (s state) lost(old state) bool {
	for _, is6 := range []bool{false, true} {
		if s.has(is6) != old.has(is6) || !slices.Equal(s.best(is6), old.best(is6)) {
			return true
		}
	}
	for _, i := range old.interfaces {
		for _, a := range i.Addrs {
			if !s.holds(i.Index, a.Addr()) {
				return true
			}
		}
	}
	return false
}

// has says that there is an address of that IP version.
func (s state) has(is6 bool) bool {
	return slices.ContainsFunc(s.interfaces, func(i Interface) bool {
		return slices.ContainsFunc(i.Addrs, func(a netip.Prefix) bool { return a.Addr().Is6() == is6 })
	})
}

func (s state) holds(index int, addr netip.Addr) bool {
	return slices.ContainsFunc(s.interfaces, func(i Interface) bool {
		return i.Index == index && slices.ContainsFunc(i.Addrs, func(a netip.Prefix) bool { return a.Addr() == addr })
	})
}

// best returns the default routes of the smallest metric.
func (s state) best(is6 bool) []route {
	var list []route
	for _, r := range s.routes {
		if r.is6 == is6 && (len(list) == 0 || r.metric == list[0].metric) {
			list = append(list, r)
		}
	}
	return list
}

// look reads the state that matters: interfaces that run and lead elsewhere,
// their addresses that reach further than the link, and the default routes.
func (m *Monitor) look() (state, error) {
	var s state
	list, err := m.Interfaces()
	if err != nil {
		return state{}, err
	}
	seen := make(map[int]bool)
	for _, i := range list {
		if !i.IsRunning() || i.IsLoopback() {
			continue
		}
		seen[i.Index] = true
		var addrs []netip.Prefix
		for _, a := range i.Addrs {
			if a.Addr().IsGlobalUnicast() {
				addrs = append(addrs, a)
			}
		}
		slices.SortFunc(addrs, netip.Prefix.Compare)
		i.Addrs = addrs
		i.Flags, i.Kind, i.Master = 0, "", 0
		s.interfaces = append(s.interfaces, i)
	}
	routes, err := m.src.routes()
	if err != nil {
		return state{}, fmt.Errorf("list default routes: %w", err)
	}
	for _, r := range routes {
		if seen[r.index] {
			s.routes = append(s.routes, r)
		}
	}
	slices.SortFunc(s.routes, route.compare)
	return s, nil
}

// Interfaces lists the interfaces of the host that may lead to other machines, and
// loopback. One that does not run has no addresses here: nothing gets through it.
func (m *Monitor) Interfaces() ([]Interface, error) {
	all, err := m.AllInterfaces()
	if err != nil {
		return nil, err
	}
	kept, _, err := m.judge(all)
	if err != nil {
		return nil, err
	}
	for at := range kept {
		if !kept[at].IsRunning() {
			kept[at].Addrs = nil
		}
	}
	return kept, nil
}

// LeftOut lists the interfaces that do not count.
func (m *Monitor) LeftOut() ([]LeftOut, error) {
	all, err := m.AllInterfaces()
	if err != nil {
		return nil, err
	}
	_, left, err := m.judge(all)
	return left, err
}

// AllInterfaces lists those left out too, and the addresses of those that
// do not run: they are this host's own as much as the others'.
func (m *Monitor) AllInterfaces() ([]Interface, error) {
	all, err := m.src.interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	return all, nil
}

// MustName reports whether a packet to remote has to name the address local as its
// source, lest it leaves from another one, and would then leave by the given interface:
// an answer to a packet that came to local by that interface.
func (m *Monitor) MustName(remote, local netip.Addr, link int) bool {
	from, _, ok := m.src.path(remote, netip.Addr{})
	if !ok || from == local {
		return false
	}
	_, by, ok := m.src.path(remote, local)
	return ok && by == link
}

// tunnelKinds are the kernel's words for links that carry their packets inside others.
var tunnelKinds = []string{
	"tun", "tuntap", "wireguard", "vxlan", "geneve", "bareudp", "gre", "gretap", "erspan", "ip6gre", "ip6gretap", "ip6erspan",
	"ipip", "sit", "ip6tnl", "vti", "vti6", "xfrm", "l2tpeth",
}

// Tunnelled reports whether packets to remote leave by a link that is a tunnel.
func (m *Monitor) Tunnelled(remote netip.Addr) bool {
	_, index, ok := m.src.path(remote, netip.Addr{})
	return ok && slices.Contains(tunnelKinds, m.src.kind(index))
}

// Gateway returns the router of the best IPv4 default route; false if there is
// none, or if that route leads into a tunnel without a router.
func (m *Monitor) Gateway() (Gateway, bool) {
	s, err := m.look()
	best := s.best(false)
	if err != nil || len(best) == 0 || !best[0].gateway.Is4() {
		return Gateway{}, false
	}
	r := best[0]
	at := slices.IndexFunc(s.interfaces, func(i Interface) bool { return i.Index == r.index })
	via := s.interfaces[at] // look keeps no routes of others
	g := Gateway{Addr: r.gateway, Self: r.self, Interface: via.Name}
	if !g.Self.IsValid() {
		g.Self = via.facing(g.Addr)
	}
	return g, g.Self.IsValid()
}

// facing is the IPv4 address of the interface that is in the same network as
// addr, else its first one; zero if it has none.
func (i Interface) facing(addr netip.Addr) netip.Addr {
	var first netip.Addr
	for _, a := range i.Addrs {
		switch {
		case !a.Addr().Is4():
		case a.Contains(addr):
			return a.Addr()
		case !first.IsValid():
			first = a.Addr()
		}
	}
	return first
}
