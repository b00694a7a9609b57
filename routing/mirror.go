package routing

import "net/netip"

// Mirror returns the address of an overlay prefix that no node gets: what this host
// sends there by UDP comes back to it.
func Mirror(prefix netip.Prefix) netip.Addr { return prefix.Masked().Addr() }

// IsMirror reports whether an address is the Mirror of one of the table's prefixes.
func (t *Table) IsMirror(a netip.Addr) bool {
	if a.Is4() {
		return a == t.mirror4
	}
	return a == Mirror(Prefix6())
}
