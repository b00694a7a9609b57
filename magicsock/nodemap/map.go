package nodemap

import (
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock/disco"
)

// Map holds the paths to all nodes. Make one with [New]. Not safe for
// concurrent use.
type Map struct {
	cfg    Config
	filter Filter

	byID     map[identity.NodeID]*node
	bySlot   map[uint64]*node
	list     []*node // the same nodes in a fixed order
	owners   map[netip.AddrPort]owner
	lastSlot uint64

	lastFrom  netip.AddrPort // the last hit in owners
	lastOwner owner

	nat      NAT                             // ours
	down     map[identity.RelayURL]time.Time // relays whose link broke, since when
	unproven bucket
	landed   bool // the pong that was taken last answered a ping
	acts     []Action
	next     time.Time
	pruneAt  time.Time
}

// owner is the node that an ip:port belongs to.
type owner struct {
	node *node
	path *path
}

// Claim is the address under which a node says that it sees us (S11). It is
// worth nothing by itself: the driver decides when claims agree.
type Claim struct {
	Node   identity.NodeID
	From   netip.AddrPort // the address of the node that answered
	Addr   netip.AddrPort // ours, as seen there
	At     time.Time
	Paired bool
}

// New returns an empty Map.
func New(cfg Config) *Map {
	if cfg.NewTxID == nil {
		cfg.NewTxID = randomTxID
	}
	return &Map{
		cfg:    cfg,
		filter: Filter{Loopback: cfg.LoopbackOK},
		byID:   make(map[identity.NodeID]*node),
		bySlot: make(map[uint64]*node),
		owners: make(map[netip.AddrPort]owner),
		down:   make(map[identity.RelayURL]time.Time),
	}
}

func randomTxID() (tx disco.TxID) {
	_, _ = rand.Read(tx[:]) // never fails, see crypto/rand
	return tx
}

// Next returns when Tick has something to do, zero for never. It may have moved
// to an earlier time after any other call.
func (m *Map) Next() time.Time { return m.next }

// MappedPort is the port of all mapped addresses, mappedPrefix their first 64
// bits (iroh-net 0.28.1).
const (
	MappedPort   = 12345
	mappedPrefix = 0xfd15_070a_510b_0000
)

func mappedAddr(slot uint64) netip.AddrPort {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], mappedPrefix)
	binary.BigEndian.PutUint64(b[8:], slot)
	return netip.AddrPortFrom(netip.AddrFrom16(b), MappedPort)
}

// byMapped returns the node of a mapped address, nil for none.
func (m *Map) byMapped(a netip.AddrPort) *node {
	if a.Port() != MappedPort {
		return nil
	}
	b := a.Addr().As16()
	if binary.BigEndian.Uint64(b[:8]) != mappedPrefix {
		return nil
	}
	return m.bySlot[binary.BigEndian.Uint64(b[8:])]
}

// Mapped returns the address that QUIC uses for a node, fd15:70a:510b::N port
// 12345, the same until the entry is removed. It makes the entry if there is
// none and marks the node as one that we want to reach. The zero AddrPort is
// returned for this node itself and for the zero id.
func (m *Map) Mapped(id identity.NodeID) netip.AddrPort {
	n := m.wantedNode(time.Time{}, id)
	if n == nil {
		return netip.AddrPort{}
	}
	return n.mapped
}

// MappedOf returns the mapped address of a node that has an entry. Unlike
// [Map.Mapped] it changes nothing.
func (m *Map) MappedOf(id identity.NodeID) (netip.AddrPort, bool) {
	if n := m.byID[id]; n != nil {
		return n.mapped, true
	}
	return netip.AddrPort{}, false
}

// NodeByMapped returns the node of a mapped address.
func (m *Map) NodeByMapped(a netip.AddrPort) (identity.NodeID, bool) {
	if n := m.byMapped(a); n != nil {
		return n.id, true
	}
	return identity.NodeID{}, false
}

// begin starts a call that returns actions.
func (m *Map) begin() { m.acts = m.acts[:0] }

// add appends an action.
func (m *Map) add(a Action) { m.acts = append(m.acts, a) }

// done returns the actions of the call, nil for none.
func (m *Map) done() []Action {
	if len(m.acts) == 0 {
		return nil
	}
	return m.acts
}

// wantedNode returns the entry of a node that we want to reach.
func (m *Map) wantedNode(now time.Time, id identity.NodeID) *node {
	n := m.node(now, id)
	if n != nil {
		n.wanted = true
		n.paired = m.isPaired(id)
	}
	return n
}

// node returns the entry of a node and makes it if there is none; nil for this
// node itself and for the zero id.
func (m *Map) node(now time.Time, id identity.NodeID) *node {
	if n := m.byID[id]; n != nil {
		return n
	}
	if id == m.cfg.Self || id.IsZero() {
		return nil
	}
	m.lastSlot++
	n := &node{id: id, slot: m.lastSlot, mapped: mappedAddr(m.lastSlot)}
	n.use.created = now
	n.choice.route.Node = id
	n.paired = m.isPaired(id)
	if !n.paired {
		m.dropStranger()
	}
	m.byID[id], m.bySlot[n.slot] = n, n
	m.list = append(m.list, n)
	return n
}

func (m *Map) isPaired(id identity.NodeID) bool { return m.cfg.Peer != nil && m.cfg.Peer(id) }

// stranger says that only the node itself made us know it.
func (n *node) stranger() bool { return !n.paired && !n.wanted && !n.established }

// limited says that the node gets pongs and nothing else (S6).
func (m *Map) limited(n *node) bool {
	return m.cfg.Open && n.stranger() || m.cfg.Denied != nil && m.cfg.Denied(n.id)
}

// Remove forgets a node: its addresses, its mapped address and its relay.
func (m *Map) Remove(id identity.NodeID) {
	if n := m.byID[id]; n != nil {
		m.removeNode(n)
	}
}

func (m *Map) removeNode(n *node) {
	for _, p := range n.paths {
		m.disown(p)
	}
	delete(m.byID, n.id)
	delete(m.bySlot, n.slot)
	m.list = slices.DeleteFunc(m.list, func(o *node) bool { return o == n })
}

// Add enters the addresses of a node, marks it as wanted and, when a session
// lacks a direct path, pings the new ones. Addresses that the filter refuses are
// left out. It returns [ErrSelf], or [ErrNoAddresses] when after it there is
// neither a relay nor a direct address.
func (m *Map) Add(now time.Time, addr identity.NodeAddr, source Source) ([]Action, error) {
	if addr.ID == m.cfg.Self {
		return nil, ErrSelf
	}
	m.begin()
	n := m.wantedNode(now, addr.ID)
	if n == nil {
		return nil, ErrNoAddresses
	}
	fresh := 0
	if !addr.Relay.IsZero() && m.nameRelay(now, n, addr.Relay, source) {
		n.turn.callMe = time.Time{} // it went by another relay
		fresh++
	}
	for _, a := range m.filter.Select(addr.Direct, source) {
		known := n.path(a) != nil
		if p := m.addPath(now, n, a, source); p != nil && !known {
			fresh++
		}
	}
	if fresh > 0 && n.awake(now) && !n.settled(now) {
		m.pingAll(now, n)
	}
	m.settle(now, n, "")
	if n.relay.url.IsZero() && len(n.paths) == 0 {
		return m.done(), ErrNoAddresses
	}
	return m.done(), nil
}

// nameRelay notes the relay that source says the node uses, and reports whether that is
// another one. A relay through which a pong came lately stays (S12), and so does one that
// somebody named whose word counts for more (S27).
func (m *Map) nameRelay(now time.Time, n *node, u identity.RelayURL, source Source) bool {
	r := &n.relay
	switch {
	case r.url == u && source.weight() >= r.named.weight():
		r.named = source
		return false
	case r.url == u, !r.url.IsZero() && (age(now, r.lastPong) < trustTime || source.weight() < r.named.weight()):
		return false
	}
	m.setRelay(n, u)
	r.named = source
	return true
}

// setRelay notes the relay of a node.
func (m *Map) setRelay(n *node, u identity.RelayURL) {
	if n.relay.url != u {
		n.relay = relayPath{url: u, down: m.down[u]}
		n.choice.fast = time.Time{}
	}
}

// Acceptable applies the filter of S9 with our own addresses and TUN prefixes.
func (m *Map) Acceptable(a netip.AddrPort, source Source) bool {
	return m.filter.Acceptable(a, source)
}

// SetOwnAddrs tells the direct addresses of this node, and which of them are of interfaces of
// this host. They are taken away from all nodes, and those that are looking for a direct path
// are told new ones.
func (m *Map) SetOwnAddrs(now time.Time, addrs []netip.AddrPort, host []netip.Addr) []Action {
	m.begin()
	m.filter.Host = slices.Clone(host)
	before := m.filter.Own
	m.filter.Own = m.filter.Own[:0:0]
	for _, a := range addrs {
		m.filter.Own = append(m.filter.Own, unmap(a))
	}
	m.refilter(now)
	isNew := func(a netip.AddrPort) bool { return !slices.Contains(before, a) }
	if slices.ContainsFunc(m.filter.Own, isNew) {
		m.tellAddrs(now)
	}
	return m.done()
}

// tellAddrs sends a call-me-maybe to the nodes that a direct path is missing to:
// the last one named addresses of before.
func (m *Map) tellAddrs(now time.Time) {
	for _, n := range m.list {
		if n.awake(now) && !n.settled(now) && !n.turn.callMe.IsZero() {
			m.callMe(now, n, 0)
			m.settle(now, n, "")
		}
	}
}

// SetTunPrefixes tells what is routed into TUN devices of ours. Addresses inside
// are taken away from all nodes.
func (m *Map) SetTunPrefixes(now time.Time, prefixes []netip.Prefix) []Action {
	m.begin()
	m.filter.TUN = slices.Clone(prefixes)
	m.refilter(now)
	return m.done()
}

func (m *Map) refilter(now time.Time) {
	for _, n := range m.list {
		before := len(n.paths)
		for _, p := range slices.Clone(n.paths) {
			if !m.filter.Acceptable(p.addr, SourceUDP) {
				m.removePath(n, p)
			}
		}
		if len(n.paths) != before {
			m.settle(now, n, ReasonOwner)
		}
	}
}

// Claims returns what nodes said about our own address within the last minute,
// one claim a node.
func (m *Map) Claims(now time.Time) []Claim {
	var out []Claim
	for _, n := range m.list {
		if age(now, n.claim.At) <= time.Minute {
			c := n.claim
			c.Paired = m.isPaired(n.id)
			out = append(out, c)
		}
	}
	return out
}
