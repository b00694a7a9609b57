package routing

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

var (
	// ErrBadPool is wrapped when a pool setting is no usable IPv4 prefix.
	ErrBadPool = errors.New("bad ipv4 pool")
	// ErrPoolTaken is wrapped when a pool overlaps an address or a route of
	// this host.
	ErrPoolTaken = errors.New("ipv4 pool overlaps this host's network")
)

const (
	// minPoolBits and maxPoolBits bound the length of a pool's prefix. A /30
	// has two usable hosts: this node and one peer.
	minPoolBits = 8
	maxPoolBits = 30

	// defaultRouteBits: a prefix shorter than this is a piece of a default
	// route (0.0.0.0/0, 0.0.0.0/1, 2000::/3), not a network somebody is
	// attached to.
	defaultRouteBits = 7

	// onDemandHosts is the size of the slice for NodeIDs that are no peers
	// (S19). A small pool gives a quarter of itself.
	onDemandHosts = 1024
)

// Networks is what a host has to do with already, in no order.
type Networks struct {
	// Used holds prefixes that packets go to: networks, routes, single addresses.
	Used []netip.Prefix
	// Null holds routes that lead nowhere (blackhole, unreachable, prohibit). One that
	// is wider than a pool covers whatever nobody uses, the pool too.
	Null []netip.Prefix
}

// clash returns what lies in the way of a pool.
func (n Networks) clash(pool netip.Prefix) (netip.Prefix, bool) {
	// A piece of a default route is no network.
	used := func(p netip.Prefix) bool { return p.Bits() >= defaultRouteBits && p.Overlaps(pool) }
	if i := slices.IndexFunc(n.Used, used); i >= 0 {
		return n.Used[i], true
	}
	inside := func(p netip.Prefix) bool { return p.Bits() >= pool.Bits() && p.Overlaps(pool) }
	if i := slices.IndexFunc(n.Null, inside); i >= 0 {
		return n.Null[i], true
	}
	return netip.Prefix{}, false
}

// DefaultPools lists the IPv4 pools tried in this order when none is set.
func DefaultPools() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("198.18.0.0/16"),
		netip.MustParsePrefix("10.214.0.0/16"),
		netip.MustParsePrefix("172.29.0.0/16"),
		netip.MustParsePrefix("100.100.0.0/16"), // last: in the space that Tailscale filters, with the resolvers of a large cloud
	}
}

// ChoosePool turns the setting `ipv4_pool` into a pool. The empty setting
// takes the first of DefaultPools that overlaps nothing in taken; "none"
// returns the zero Prefix, which switches IPv4 off; anything else must be an
// IPv4 prefix of 8 to 30 bits that overlaps nothing in taken. Errors wrap
// ErrBadPool or ErrPoolTaken. Pieces of a default route in taken (shorter than
// 7 bits) do not count.
func ChoosePool(setting string, taken Networks) (netip.Prefix, error) {
	switch setting {
	case "none":
		return netip.Prefix{}, nil
	case "":
		for _, p := range DefaultPools() {
			if _, clash := taken.clash(p); !clash {
				return p, nil
			}
		}
		return netip.Prefix{}, fmt.Errorf("%w: every default pool is in use here (set ipv4_pool to a free prefix, or to none)", ErrPoolTaken)
	}
	p, err := parsePool(setting)
	if err != nil {
		return netip.Prefix{}, err
	}
	if other, clash := taken.clash(p); clash {
		return netip.Prefix{}, fmt.Errorf("%w: %s overlaps %s", ErrPoolTaken, p, other)
	}
	return p, nil
}

func parsePool(setting string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(setting)
	if err != nil || !p.Addr().Is4() {
		return netip.Prefix{}, fmt.Errorf("%w: %q is no ipv4 prefix (such as 10.214.0.0/16)", ErrBadPool, setting)
	}
	if p.Bits() < minPoolBits || p.Bits() > maxPoolBits {
		return netip.Prefix{}, fmt.Errorf("%w: %s must be between /%d and /%d", ErrBadPool, p, minPoolBits, maxPoolBits)
	}
	p = p.Masked()
	for _, bad := range reservedV4() {
		if p.Overlaps(bad) {
			return netip.Prefix{}, fmt.Errorf("%w: %s lies in %s, which is reserved", ErrBadPool, p, bad)
		}
	}
	return p, nil
}

// reservedV4 lists the IPv4 prefixes that no packet may carry as an overlay
// address (S13): this network, loopback, link-local, multicast and class E.
func reservedV4() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/8"),
		netip.MustParsePrefix("127.0.0.0/8"),
		netip.MustParsePrefix("169.254.0.0/16"),
		netip.MustParsePrefix("224.0.0.0/3"),
	}
}

// hosts numbers the usable hosts of a pool from 0 to n-1. The zero value has
// none.
type hosts struct {
	first  uint32 // the address of host 0
	n      uint32
	demand uint32 // the last demand hosts are the slice of S19
}

func newHosts(pool netip.Prefix) hosts {
	if !pool.IsValid() || !pool.Addr().Is4() || pool.Bits() > maxPoolBits {
		return hosts{}
	}
	base := pool.Masked().Addr().As4()
	n := uint32(1<<(32-uint(pool.Bits()))) - 2
	return hosts{
		first:  binary.BigEndian.Uint32(base[:]) + 1,
		n:      n,
		demand: min(onDemandHosts, n/4),
	}
}

func (h hosts) at(i uint32) netip.Addr {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], h.first+i)
	return netip.AddrFrom4(a)
}

func (h hosts) holds(a netip.Addr) bool {
	if !a.Is4() {
		return false
	}
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])-h.first < h.n
}
