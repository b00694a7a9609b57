package nodemap

import (
	"net/netip"
	"slices"
	"time"

	"github.com/nodetun/nodetun/identity"
)

// Where one NAT is hard and the other is not, and that one lets in only what it
// was sent to by ip:port, the nodes meet by chance: many sockets on the hard side,
// many ports pinged on the other. Both begin at a call-me-maybe of the hard side,
// so that they do it at the same time. Where both are hard it is hopeless.

// SetFeatures notes what a node said that it can do.
func (m *Map) SetFeatures(now time.Time, id identity.NodeID, f Features) []Action {
	m.begin()
	n := m.byID[id]
	if n == nil || n.features == f {
		return nil
	}
	n.features = f
	for _, p := range n.paths {
		p.room = room{}
	}
	m.settle(now, n, "")
	return m.done()
}

// SetOwnNAT notes what is known about our NAT.
func (m *Map) SetOwnNAT(nat NAT) { m.nat = nat }

// SetPeerNAT notes what a node said about its NAT.
func (m *Map) SetPeerNAT(id identity.NodeID, nat NAT) {
	if n := m.byID[id]; n != nil {
		n.nat = nat
		n.nat.Public = m.filter.Select(nat.Public, SourceRelay)
	}
}

// mayPunch says that an attempt for the node is due: something is to be sent, and
// simpler means have had their time, delay.
func (m *Map) mayPunch(now time.Time, n *node, delay time.Duration) bool {
	return m.cfg.Punch == PunchNormal && n.paired && m.nat.Hard != n.nat.Hard &&
		n.awake(now) && n.usableBest(now) == nil &&
		waited(now, n.use.indirect, delay) && age(now, n.turn.punch) >= punchGap
}

// punchSockets begins an attempt on the hard side.
func (m *Map) punchSockets(now time.Time, n *node) {
	if !m.nat.Hard || !m.mayPunch(now, n, punchDelay) {
		return
	}
	for _, a := range n.nat.Public {
		if a.Addr().Is4() && n.path(a) != nil {
			n.turn.punch = now
			m.add(Action{Kind: PunchSockets, Node: n.id, To: UDPAddr(a), Size: punchPackets})
			return
		}
	}
}

// punchSpray begins an attempt on the other side, towards an address that the node
// itself named in a call-me-maybe. The ports of a NAT that counts are named, too,
// and need no luck.
func (m *Map) punchSpray(now time.Time, n *node, named []netip.AddrPort) {
	if !n.nat.Hard || n.nat.Step != 0 || !m.mayPunch(now, n, punchEarly) {
		return
	}
	for _, a := range n.nat.Public {
		same := func(b netip.AddrPort) bool { return a.Addr() == b.Addr() }
		if a.Addr().Is4() && slices.ContainsFunc(named, same) {
			n.turn.punch = now
			m.add(Action{Kind: PunchSpray, Node: n.id, To: UDPAddr(a), Size: punchPackets})
			return
		}
	}
}

// PunchPing returns a ping to an address of an attempt. The answer is not waited
// for: the node pings back from where it came, and that counts.
func (m *Map) PunchPing(id identity.NodeID, to netip.AddrPort) []Action {
	m.begin()
	if m.byID[id] == nil || !m.filter.Acceptable(to, SourceRelay) {
		return nil
	}
	m.add(Action{Kind: SendPing, Node: id, To: UDPAddr(to), TxID: m.cfg.NewTxID()})
	return m.done()
}
