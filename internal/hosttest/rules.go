//go:build linux

package hosttest

import (
	"fmt"
	"strings"
	"testing"
)

// Ports of mappings.
const (
	sequentialFirst = 20000 // first port of a Sequential router
	sequentialPorts = 4096  // so many before it begins anew
	nodetunPort     = 41820 // which Remap is about
)

// load replaces the rules of the router by those of its kind.
func (r *Router) load(t testing.TB) {
	t.Helper()
	r.NS.Nft(t, "flush ruleset\n"+r.rules())
}

// rules is the ruleset of the router. What arrives unasked is dropped also when
// it is for the router itself: an answer of the router, or an entry of its
// connection table, would be in the way of the next packet from inside.
func (r *Router) rules() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("table inet filter {")
	line("  chain forward {")
	line("    type filter hook forward priority 10")
	line("    ct state established,related accept")
	if r.config.Kind == Blocked {
		line("    meta nfproto ipv4 meta l4proto udp drop")
	}
	line("    meta l4proto ipv6-icmp accept")
	line("    iifname %q ct state new ct status ! dnat drop", r.Outside)
	line("  }")
	line("  chain input {")
	line("    type filter hook input priority 0")
	line("    ct state established,related accept")
	line("    meta l4proto ipv6-icmp accept")
	line("    iifname %q drop", r.Outside)
	line("  }")
	line("}")
	if r.config.Kind == Firewall {
		return b.String()
	}
	line("table ip nat {")
	line("  map inside { type inet_service : ipv4_addr; flags dynamic,timeout; timeout 2m; }")
	line("  set asked { type ipv4_addr . inet_service; flags dynamic,timeout; timeout 2m; }")
	line("  chain learn {")
	line("    type filter hook forward priority 0")
	line("    oifname %q update @inside { udp sport : ip saddr }", r.Outside)
	line("    oifname %q update @asked { ip daddr . udp sport }", r.Outside)
	line("  }")
	line("  chain prerouting {")
	line("    type nat hook prerouting priority -100")
	switch r.config.Kind {
	case FullCone:
		line("    iifname %q ip daddr %s dnat to udp dport map @inside", r.Outside, r.WAN)
	case Restricted:
		line("    iifname %q ip daddr %s ip saddr . udp dport @asked dnat to udp dport map @inside", r.Outside, r.WAN)
	}
	if r.config.Hairpin {
		line("    iifname %q ip daddr %s dnat to udp dport map @inside", r.Inside, r.WAN)
	}
	line("  }")
	line("  chain postrouting {")
	line("    type nat hook postrouting priority 100")
	if r.config.Hairpin {
		line("    oifname %q ct status dnat ip saddr %s0%s snat to %s", r.Inside, r.network(), r.bits(), r.WAN)
	}
	line("    oifname %q %s", r.Outside, r.translate())
	line("  }")
	line("}")
	return b.String()
}

// translate is the statement that chooses the address and port outside.
func (r *Router) translate() string {
	switch {
	case r.config.Kind == Symmetric:
		return "masquerade random,fully-random"
	case r.config.Kind == Sequential:
		ports := make([]string, sequentialPorts)
		for i := range ports {
			ports[i] = fmt.Sprintf("%d : %s . %d", i, r.WAN, sequentialFirst+i)
		}
		udp := fmt.Sprintf("meta l4proto udp snat ip to numgen inc mod %d map { %s }", sequentialPorts, strings.Join(ports, ", "))
		return udp + fmt.Sprintf("\n    oifname %q masquerade", r.Outside)
	case r.shift != 0:
		return fmt.Sprintf("udp sport %d masquerade to :%d\n    oifname %q masquerade", nodetunPort, nodetunPort+r.shift, r.Outside)
	default:
		return "masquerade"
	}
}

// Remap makes the router forget all mappings of UDP, as one that is switched
// off and on does, and map nodetun's usual port to another one than before, the
// same for every destination as before.
func (r *Router) Remap(t testing.TB) {
	t.Helper()
	r.shift++
	r.load(t)
	r.Forget(t)
}

// Forget makes the router forget all mappings of UDP.
func (r *Router) Forget(t testing.TB) {
	t.Helper()
	_, _ = r.NS.Try("conntrack", "-D", "-p", "udp") // fails if there were none
}

// Renumber gives the router another public address, for connections that are
// open as well.
func (n *Internet) Renumber(t testing.TB, r *Router) {
	t.Helper()
	old := r.WAN
	r.part = n.address()
	r.WAN = fmt.Sprintf("203.0.113.%d", r.part)
	r.NS.Run(t, "ip", "addr", "del", old+"/24", "dev", r.Outside) // and the route with it
	r.NS.Run(t, "ip", "addr", "add", r.WAN+"/24", "dev", r.Outside)
	r.NS.Run(t, "ip", "route", "add", "default", "via", "203.0.113.1")
	r.load(t)
	r.NS.Run(t, "conntrack", "-F")
}

// DropStrays drops TCP of connections that the router does not know, without a word.
func (r *Router) DropStrays(t testing.TB) {
	t.Helper()
	r.NS.Nft(t, `table ip strays {
  chain forward {
    type filter hook forward priority -5
    tcp flags & syn == 0 ct state { new, invalid } drop
  }
}
`)
}

// BlockUDP lets no UDP over IPv4 pass from now on, that of open connections
// included.
func (r *Router) BlockUDP(t testing.TB) {
	t.Helper()
	r.NS.Nft(t, `table ip block {
  chain forward {
    type filter hook forward priority -10
    meta l4proto udp drop
  }
}
`)
}

// UnblockUDP undoes BlockUDP.
func (r *Router) UnblockUDP(t testing.TB) {
	t.Helper()
	r.NS.Run(t, "nft", "delete", "table", "ip", "block")
}
