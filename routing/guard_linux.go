//go:build linux

package routing

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// guard keeps overlay addresses to the tunnel (S28). Linux takes packets for any address of
// the host on every link, and IPv6 does not look where a source belongs: without it a
// neighbour reaches what programs offer to peers alone, and speaks with peers' addresses.
//
//	table inet nodetun_LINK
//	  chain guard: type filter, hook prerouting, priority raw
//	    iifname != LINK iifname != "lo" ip(6) daddr OWN drop      for each own address
//	    iifname != LINK iifname != "lo" ip(6) saddr OVERLAY drop  for each overlay prefix
type guard struct {
	link string
	conn *nftables.Conn // its socket stays in the network namespace of newGuard
	own  [][]expr.Any   // rules for our own addresses
}

// guardPrefix begins the names of tables, guardChain is the chain in each.
const (
	guardPrefix = "nodetun_"
	guardChain  = "guard"
)

// newGuard prepares the guard of a link; it changes nothing.
func newGuard(link string, own []netip.Prefix) (*guard, error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, err
	}
	g := &guard{link: link, conn: conn}
	for _, p := range own {
		g.own = append(g.own, dropRule(link, netip.PrefixFrom(p.Addr(), p.Addr().BitLen()), true))
	}
	return g, nil
}

// dropRule drops what comes in by another link, to or from a prefix.
func dropRule(link string, p netip.Prefix, destination bool) []expr.Any {
	proto, offset, size := byte(unix.NFPROTO_IPV6), uint32(8), uint32(16) // of the source (RFC 8200 3)
	if p.Addr().Is4() {
		proto, offset, size = unix.NFPROTO_IPV4, 12, 4 // (RFC 791 3.1)
	}
	if destination {
		offset += size
	}
	mask := net.CIDRMask(p.Bits(), p.Addr().BitLen())
	notBy := func(name string) []expr.Any {
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: ifname(name)}}
	}
	return slices.Concat(notBy(link), notBy("lo"), []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: mask, Xor: make([]byte, size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()},
		&expr.Verdict{Kind: expr.VerdictDrop},
	})
}

// ifname is a name as the kernel compares it (IFNAMSIZ).
func ifname(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

// table names the table of a link.
func guardTable(link string) *nftables.Table {
	name := strings.Map(func(r rune) rune {
		if r == '_' || r == '.' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '_'
	}, link)
	return &nftables.Table{Name: guardPrefix + name, Family: nftables.TableFamilyINet}
}

// ensure makes the table anew unless it is there with its rules. overlay are the prefixes
// that are the tunnel's alone.
func (g *guard) ensure(overlay []netip.Prefix) (changed bool, err error) {
	want := slices.Clone(g.own)
	for _, p := range overlay {
		want = append(want, dropRule(g.link, p, false))
	}
	table := guardTable(g.link)
	have, err := g.conn.ListTablesOfFamily(table.Family)
	if err != nil {
		return false, err
	}
	there := slices.ContainsFunc(have, func(t *nftables.Table) bool { return t.Name == table.Name })
	if there && g.complete(table, want) {
		return false, nil
	}
	if there {
		g.conn.DelTable(table)
	}
	table = g.conn.AddTable(table)
	chain := g.conn.AddChain(&nftables.Chain{
		Name: guardChain, Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	})
	for _, rule := range want {
		g.conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: rule})
	}
	return true, g.conn.Flush()
}

// complete reports whether each rule is in the chain.
func (g *guard) complete(table *nftables.Table, want [][]expr.Any) bool {
	rules, err := g.conn.GetRules(table, &nftables.Chain{Name: guardChain, Table: table})
	if err != nil || len(rules) != len(want) {
		return false
	}
	for i, rule := range rules {
		if !slices.EqualFunc(rule.Exprs, want[i], sameExpr) {
			return false
		}
	}
	return true
}

// sameExpr compares what tells our rules apart: the values that they compare with.
func sameExpr(a, b expr.Any) bool {
	one, isCmp := a.(*expr.Cmp)
	two, both := b.(*expr.Cmp)
	if isCmp != both {
		return false
	}
	return !isCmp || one.Op == two.Op && bytes.Equal(one.Data, two.Data)
}

// remove takes the table away, and those of links that are gone.
func (g *guard) remove() error {
	return removeGuards(g.conn, func(name string) bool { return name == guardTable(g.link).Name })
}

func (g *guard) close() { _ = g.conn.CloseLasting() }

// removeGuards deletes the tables of ours that are named.
func removeGuards(conn *nftables.Conn, which func(name string) bool) error {
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return err
	}
	some := false
	for _, table := range tables {
		if strings.HasPrefix(table.Name, guardPrefix) && which(table.Name) {
			conn.DelTable(table)
			some = true
		}
	}
	if !some {
		return nil
	}
	return conn.Flush()
}

// CleanUp removes what a Host that was killed left behind: the kernel keeps what it put
// into the packet filter, though the link is gone.
func CleanUp() error {
	conn, err := nftables.New()
	if err != nil {
		return nil // there is none
	}
	links, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("routing: %w", err)
	}
	alive := func(name string) bool {
		return slices.ContainsFunc(links, func(l net.Interface) bool { return guardTable(l.Name).Name == name })
	}
	err = removeGuards(conn, func(name string) bool { return !alive(name) })
	if err != nil && !errors.Is(err, unix.EPERM) && !noFilter(err) {
		return fmt.Errorf("routing: clean up the packet filter: %w", err)
	}
	return nil
}

// noFilter reports whether the kernel has no nf_tables.
func noFilter(err error) bool {
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAFNOSUPPORT)
}
