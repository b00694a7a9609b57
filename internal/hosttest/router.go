//go:build linux

package hosttest

import (
	"fmt"
	"testing"

	"github.com/nodetun/nodetun/internal/nstest"
)

// Kind is what a router does to UDP over IPv4. Whatever it is, what comes from
// outside unasked is dropped.
type Kind string

// Kinds of routers, in the words of RFC 4787.
const (
	// Firewall translates nothing: hosts behind it have public addresses.
	Firewall Kind = "firewall"
	// Easy maps a port of the inside to the same port outside, for every
	// destination, as long as it is free; only addresses and ports that were sent
	// to may answer. That is what Linux does.
	Easy Kind = "easy"
	// Restricted is Easy, but any port of an address that was sent to may answer.
	Restricted Kind = "restricted"
	// FullCone is Easy, but anybody may send to a port once it is mapped.
	FullCone Kind = "full cone"
	// Symmetric maps to another random port for each destination.
	Symmetric Kind = "symmetric"
	// Sequential maps to the next port for each destination.
	Sequential Kind = "sequential"
	// Blocked lets no UDP pass; TCP is as with Easy.
	Blocked Kind = "UDP blocked"
)

// RouterConfig says how a router is to be.
type RouterConfig struct {
	Kind Kind
	// LAN is the third byte of its network 192.168.LAN.0/24, 1 if zero. Several
	// routers may have the same one.
	LAN int
	// Carrier makes its network 100.64.0.0/10: a router for routers.
	Carrier bool
	// Isolate lets hosts behind it not reach each other directly.
	Isolate bool
	// Hairpin lets them reach each other's mapped ports at the outside address.
	// It is for the kinds that map a port to itself.
	Hairpin bool
	// IPv6 gives the network behind it public IPv6 addresses, with a firewall
	// that lets answers in only.
	IPv6 bool
	// Timeout is the life of an unused UDP mapping in seconds, 0 for the kernel's.
	Timeout int
	// PortMapping lets hosts behind it map ports by PCP.
	PortMapping bool
}

// Router stands between a network of its own and the public one or another
// router's.
type Router struct {
	NS *nstest.NS
	// WAN is its address outside, Outside the name of its interface there.
	WAN, Outside string
	// Inside is the name of its interface inside.
	Inside string

	config  RouterConfig
	part    int // last part of its public addresses
	taken   int // addresses given out inside
	gateway string
	shift   int // how far Remap moved a port
}

// Router makes a router on the public network.
func (n *Internet) Router(t testing.TB, c RouterConfig) *Router {
	t.Helper()
	r := newRouter(t, c)
	r.part = n.address()
	outside := n.plug(t, r.NS, r.part)
	r.Outside, r.WAN = outside.Dev, outside.Addr
	if c.IPv6 {
		r.NS.Run(t, "ip", "addr", "add", fmt.Sprintf("2001:db8::%d/64", r.part), "dev", r.Outside)
		r.NS.Run(t, "ip", "route", "add", "default", "via", "2001:db8::1")
		n.NS.Run(t, "ip", "route", "add", r.prefix6()+"/64", "via", fmt.Sprintf("2001:db8::%d", r.part))
		r.NS.Run(t, "ip", "addr", "add", r.prefix6()+"1/64", "dev", r.Inside)
	}
	if c.Kind == Firewall {
		n.NS.Run(t, "ip", "route", "add", r.network()+"0/24", "via", r.WAN)
	}
	r.load(t)
	if c.PortMapping {
		r.servePortMapping(t)
	}
	return r
}

// Behind makes a router whose outside is r's inside.
func (r *Router) Behind(t testing.TB, c RouterConfig) *Router {
	t.Helper()
	inner := newRouter(t, c)
	outside := r.attach(t, inner.NS, r.next())
	inner.Outside, inner.WAN = outside.Dev, outside.Addr
	inner.load(t)
	return inner
}

// newRouter makes a router with an empty network behind it.
func newRouter(t testing.TB, c RouterConfig) *Router {
	t.Helper()
	if c.LAN == 0 {
		c.LAN = 1
	}
	r := &Router{NS: nstest.New(t, "nat"), config: c, Inside: "lan"}
	r.gateway = r.network() + "1"
	r.NS.Run(t, "ip", "link", "add", "lan", "type", "bridge")
	r.NS.Run(t, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv6.conf.lan.accept_dad=0",
		"net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.lan.send_redirects=0")
	// Bridged packets are none of the router's business, where the kernel can ask.
	_, _ = r.NS.Try("sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=0", "net.bridge.bridge-nf-call-ip6tables=0")
	if c.Timeout != 0 {
		r.NS.Run(t, "sysctl", "-qw", fmt.Sprintf("net.netfilter.nf_conntrack_udp_timeout=%d", c.Timeout),
			fmt.Sprintf("net.netfilter.nf_conntrack_udp_timeout_stream=%d", c.Timeout))
	}
	r.NS.Run(t, "ip", "addr", "add", r.gateway+r.bits(), "dev", "lan")
	r.NS.Run(t, "ip", "link", "set", "lan", "up")
	return r
}

// network is the first three bytes of addresses inside, with a dot behind.
func (r *Router) network() string {
	switch {
	case r.config.Carrier:
		return "100.64.0."
	case r.config.Kind == Firewall:
		return fmt.Sprintf("198.51.%d.", 100+r.config.LAN)
	default:
		return fmt.Sprintf("192.168.%d.", r.config.LAN)
	}
}

func (r *Router) bits() string {
	if r.config.Carrier {
		return "/10"
	}
	return "/24"
}

// prefix6 is the first half of IPv6 addresses inside.
func (r *Router) prefix6() string { return fmt.Sprintf("2001:db8:%d::", r.part) }

// attach puts a cable between the network inside and ns, with the address that
// ends in part.
func (r *Router) attach(t testing.TB, ns *nstest.NS, part int) Cable {
	t.Helper()
	c := Cable{NS: ns, Addr: fmt.Sprintf("%s%d", r.network(), part), far: r.NS}
	c.Dev, c.port = nstest.Veth(t, ns, "", r.NS, "")
	r.NS.Run(t, "ip", "link", "set", c.port, "master", r.Inside)
	if r.config.Isolate {
		r.NS.Run(t, "bridge", "link", "set", "dev", c.port, "isolated", "on")
	}
	ns.Run(t, "ip", "addr", "add", c.Addr+r.bits(), "dev", c.Dev)
	ns.Run(t, "ip", "route", "add", "default", "via", r.gateway)
	return c
}

// next returns the last part of the next free address inside, 2 at first.
func (r *Router) next() int {
	r.taken++
	return 1 + r.taken
}

// Join puts a host into the network behind the router.
func (r *Router) Join(t testing.TB, h *Host) Cable {
	t.Helper()
	part := r.next()
	c := r.attach(t, h.NS, part)
	if r.config.IPv6 {
		h.NS.Run(t, "ip", "addr", "add", fmt.Sprintf("%s%d/64", r.prefix6(), part), "dev", c.Dev)
		h.NS.Run(t, "ip", "-6", "route", "add", "default", "via", r.prefix6()+"1")
	}
	return c
}

// Cable is what joins a host to a network.
type Cable struct {
	// Dev is its end in NS, which has the address Addr.
	NS        *nstest.NS
	Dev, Addr string

	far  *nstest.NS
	port string // the end there
}

// Cut makes the host lose the carrier, as pulling the cable does.
func (c Cable) Cut(t testing.TB) { c.far.Run(t, "ip", "link", "set", c.port, "down") }

// Mend undoes Cut.
func (c Cable) Mend(t testing.TB) { c.far.Run(t, "ip", "link", "set", c.port, "up") }

// Remove takes the cable away, and with it the host's addresses and routes.
func (c Cable) Remove(t testing.TB) { c.NS.Run(t, "ip", "link", "del", c.Dev) }
