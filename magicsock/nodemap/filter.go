package nodemap

import (
	"net/netip"
	"slices"
)

// Filter is the one address filter (S9) for everything that names a direct
// address of another node. The zero value knows no own addresses.
type Filter struct {
	// Own are the direct addresses of this node, Host those of the interfaces of this host.
	Own  []netip.AddrPort
	Host []netip.Addr
	// TUN are the prefixes routed into TUN devices of ours.
	TUN []netip.Prefix
	// Loopback accepts loopback addresses.
	Loopback bool
}

var broadcast4 = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// firstUserPort is the first port that services of this host's system do not have to
// themselves (RFC 6335 6). Another node on this host may have a higher one.
const firstUserPort = 1024

// Acceptable says that a, named by source, may be pinged. IPv4 link-local
// addresses pass if this host has nothing else; [Filter.Select] drops them when there
// is anything else.
// An address that a packet really came from (SourceUDP) may be loopback or
// IPv6 link-local, the user may name (SourceApp) an IPv6 link-local one.
func (f Filter) Acceptable(a netip.AddrPort, source Source) bool { return f.Refusal(a, source) == "" }

// Refusal says why a, named by source, is not acceptable, in words that go on after the
// address; empty when it is.
func (f Filter) Refusal(a netip.AddrPort, source Source) string {
	ip := a.Addr().Unmap()
	linkLocal6 := ip.Is6() && ip.IsLinkLocalUnicast()
	switch {
	case a.Port() == 0 || !ip.IsValid() || ip.IsUnspecified() || ip.IsMulticast() || ip == broadcast4:
		return "is not the address of a machine"
	case source != SourceUDP && ip.IsLoopback() && !f.Loopback:
		return "leads back to this machine"
	case source == SourceApp && linkLocal6 && ip.Zone() == "":
		return "needs the link by which it is reached, as in [fe80::1%eth0]:41820"
	case source != SourceUDP && source != SourceApp && linkLocal6, source != SourceUDP && !linkLocal6 && ip.Zone() != "":
		return "is of use on one link only"
	case source != SourceUDP && source != SourceApp && linkLocal4(a) && !slices.ContainsFunc(f.Host, linkLocalIP4):
		return "is of use on one link only"
	case source != SourceUDP && source != SourceApp && a.Port() < firstUserPort && slices.Contains(f.Host, ip):
		return "is a service of this machine's own"
	case slices.Contains(f.Own, netip.AddrPortFrom(ip, a.Port())):
		return "is this machine's own"
	}
	bare := ip.WithZone("")
	if slices.ContainsFunc(f.TUN, func(p netip.Prefix) bool { return p.Contains(bare) }) {
		return "is an address inside the tunnel (use the one by which other machines reach it)"
	}
	return ""
}

// Select returns the acceptable ones of addrs, unmapped, without duplicates, in
// their order, at most 32 of them.
func (f Filter) Select(addrs []netip.AddrPort, source Source) []netip.AddrPort {
	out := make([]netip.AddrPort, 0, min(len(addrs), maxMessage))
	for _, a := range addrs {
		a = unmap(a)
		if len(out) < maxMessage && f.Acceptable(a, source) && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	if slices.ContainsFunc(out, func(a netip.AddrPort) bool { return !linkLocal4(a) }) {
		out = slices.DeleteFunc(out, linkLocal4)
	}
	return out
}

func linkLocal4(a netip.AddrPort) bool { return linkLocalIP4(a.Addr()) }

func linkLocalIP4(ip netip.Addr) bool { return ip.Unmap().Is4() && ip.IsLinkLocalUnicast() }

// unmap turns an IPv4-mapped IPv6 address into IPv4.
func unmap(a netip.AddrPort) netip.AddrPort {
	if a.Addr().Is4In6() {
		return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	}
	return a
}
