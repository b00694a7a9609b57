package nodemap

import (
	"net/netip"
	"time"

	"github.com/nodetun/nodetun/identity"
)

// Route says where packets datagrams of n bytes in all go, and what has to be
// done before they are sent. quicInitial marks the first flight of a handshake.
// An unknown mapped address yields the zero Route. On an established path it
// neither allocates nor returns actions.
func (m *Map) Route(now time.Time, mapped netip.AddrPort, n, packets int, quicInitial bool) (Route, []Action) {
	nd := m.byMapped(mapped)
	if nd == nil {
		return Route{}, nil
	}
	if p := nd.best; p != nil && n > paddedSize {
		size := n / max(packets, 1)
		if nd.mayCode(p) {
			size += codedExtra
		}
		if p.room.note(size, packets) && p.room.limit > 0 {
			nd.choice.fast = time.Time{}
		}
	}
	nd.length.bytes += n
	if now.Before(nd.choice.fast) {
		m.sent(now, nd)
		return nd.choice.route, nil
	}
	return m.routeSlow(now, nd, n, packets, quicInitial)
}

// sent notes payload that leaves on the chosen route.
func (m *Map) sent(now time.Time, n *node) {
	n.use.sent = now
	if n.use.want.IsZero() {
		n.use.want = now
		m.expect(n, now.Add(retryPing))
	}
	if p := n.best; p != nil && p.watch.sent.IsZero() && n.choice.route.UDP.IsValid() {
		p.watch.sent = now
		m.expect(n, now.Add(p.watch.delay()))
	}
}

func (m *Map) routeSlow(now time.Time, n *node, bytes, packets int, initial bool) (Route, []Action) {
	m.begin()
	n.use.sent = now
	n.want(now)
	if initial && !n.settled(now) && age(now, n.turn.last) >= discoveryGap {
		m.pingAll(now, n)
	}
	m.service(now, n, "")
	if n.choice.conn != ConnNone {
		n.use.stuck = time.Time{}
		m.sent(now, n)
		return n.choice.route, m.done()
	}
	if n.use.stuck.IsZero() {
		n.use.stuck = now
	}
	return m.routeUnproven(now, n, bytes, packets), m.done()
}

// routeUnproven spends the S7 grant of one candidate address: nothing is usable
// and no relay is known.
func (m *Map) routeUnproven(now time.Time, n *node, bytes, packets int) Route {
	r := Route{Node: n.id}
	p := n.candidate(now)
	if p == nil {
		m.discover(now, n)
		return r
	}
	may := p.grant.spend(now, bytes, packets)
	if may == 0 {
		return r
	}
	r.UDP = p.addr
	if may < packets {
		r.Limit = may
	}
	return r
}

// Received notes payload of n bytes that arrived from an address, through a relay
// from relaySrc. It returns the mapped address of the node, or false for an
// address that no node owns: such payload is dropped. Payload is activity; it
// renews no trust (S8).
func (m *Map) Received(now time.Time, from Addr, relaySrc identity.NodeID, n int) (netip.AddrPort, bool) {
	if !from.UDP.IsValid() {
		return m.receivedByRelay(now, from.Relay, relaySrc)
	}
	o, ok := m.ownerOf(unmap(from.UDP))
	if !ok {
		return netip.AddrPort{}, false
	}
	nd, p := o.node, o.path
	p.lastPayload, p.lastHeard = now, now
	// Once in doubt (mixed) only a pong helps: small answers may come through
	// where full packets do not.
	if !p.watch.sent.IsZero() && nd.choice.conn != ConnMixed {
		p.watch.sent = time.Time{}
		p.watch.oneWay = false
	}
	switch {
	case nd.choice.conn == ConnDirect && p != nd.best:
		m.doubt(now, nd)
	case nd.choice.conn == ConnNone:
		p.grant.received(now, n)
	}
	nd.length.bytes += n
	m.received(now, nd)
	return nd.mapped, true
}

func (m *Map) receivedByRelay(now time.Time, url identity.RelayURL, src identity.NodeID) (netip.AddrPort, bool) {
	if url.IsZero() {
		return netip.AddrPort{}, false
	}
	n := m.node(now, src)
	if n == nil {
		return netip.AddrPort{}, false
	}
	if n.relay.url.IsZero() {
		m.setRelay(n, url)
	}
	n.relay.lastPayload, n.relay.lastHeard = now, now
	if n.choice.conn == ConnDirect {
		m.doubt(now, n)
	}
	m.received(now, n)
	return n.mapped, true
}

// received notes payload of a node.
func (m *Map) received(now time.Time, n *node) {
	n.use.received = now
	n.use.heard = now
	if !n.use.want.IsZero() {
		n.answered(now)
	}
	if n.choice.due.IsZero() { // the session was idle
		m.expect(n, now)
	}
}

// doubt notes that the node sends on another way than we do, perhaps because it
// no longer hears us: the address in use is pinged soon.
func (m *Map) doubt(now time.Time, n *node) {
	if p := n.best; p != nil && !n.use.doubt.After(p.out.last) {
		n.use.doubt = now
		m.expect(n, later(now, p.out.last.Add(retryPing)))
	}
}
