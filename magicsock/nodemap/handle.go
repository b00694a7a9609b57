package nodemap

import (
	"net/netip"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock/disco"
)

// HandlePing takes in a ping of an admitted node that arrived from an address;
// size is its UDP payload. It answers with a pong to the source and, when this
// node lacks a sound path, with a ping back.
func (m *Map) HandlePing(now time.Time, sender identity.NodeID, from Addr, tx disco.TxID, size int) []Action {
	m.begin()
	from.UDP = unmap(from.UDP)
	n := m.byID[sender]
	switch {
	case sender == m.cfg.Self, from.IsZero():
		return nil
	case from.UDP.IsValid() && !m.filter.Acceptable(from.UDP, SourceUDP):
		return nil
	case n == nil:
		if n = m.node(now, sender); n == nil {
			return nil
		}
	}
	n.use.heard = now
	if from.UDP.IsValid() {
		m.pingByUDP(now, n, from, tx, size)
	} else {
		m.pingByRelay(now, n, from, tx)
	}
	m.settle(now, n, "")
	return m.done()
}

// pingByRelay answers. A ping proves neither when it was sent nor that the node is on that
// relay, which may have kept it (S12): the relay in use is left for it only when a pong has
// come through it.
func (m *Map) pingByRelay(now time.Time, n *node, from Addr, tx disco.TxID) {
	m.add(Action{Kind: SendPong, Node: n.id, To: from, Src: from, TxID: tx})
	switch {
	case n.relay.url == from.Relay, n.relay.url.IsZero():
		m.setRelay(n, from.Relay)
		n.relay.lastHeard = now
		m.confirm(now, n)
	case !m.limited(n) && age(now, n.turn.elsewhere) >= retryPing:
		n.turn.elsewhere = now
		m.askElsewhere(now, n, from.Relay)
	}
}

// confirm pings a node that left something unanswered and now seems to be there again: what
// came may be old (S12).
func (m *Map) confirm(now time.Time, n *node) {
	if !n.use.want.IsZero() {
		m.pingRelay(now, n)
	}
}

func (m *Map) pingByUDP(now time.Time, n *node, from Addr, tx disco.TxID, size int) {
	p := m.addPath(now, n, from.UDP, SourceUDP)
	if p == nil { // too many addresses: answer, but remember nothing
		m.add(Action{Kind: SendPong, Node: n.id, To: from, Src: from, TxID: tx})
		return
	}
	p.heard(now)
	p.controlled(now, "ping←")
	p.grant.received(now, size)
	m.claimPath(now, n, p, false)
	if p.heardTx && p.lastTx == tx {
		return
	}
	p.lastTx, p.heardTx = tx, true
	m.add(Action{Kind: SendPong, Node: n.id, To: from, Src: from, TxID: tx})
	if !m.limited(n) && m.wantsBack(now, n, p) {
		m.pingBack(now, n, p, size)
	}
}

// wantsBack says that a pong from p would help: there is no sound path, or a
// session may be moving to that address.
func (m *Map) wantsBack(now time.Time, n *node, p *path) bool {
	if age(now, p.out.back) < retryPing {
		return false
	}
	return !n.settled(now) || (n.active(now) && age(now, p.lastPong) > trustTime)
}

// pingBack pings the address that a ping came from, out of turn. It is not padded
// when the ping was not, so that a replayed ping from a forged address never
// draws more bytes than it has.
func (m *Map) pingBack(now time.Time, n *node, p *path, size int) {
	back := p.pingSize(now, false)
	if size < paddedSize && !p.answered(now) {
		back = 0
	}
	if m.payPing(now, n, p) {
		p.out.back = now
		m.sendPing(now, n, p, back)
	}
}

// HandlePong takes in a pong of an admitted node. Only the answer to a ping in
// flight to a path that still exists counts; it speaks for the pinged address,
// whatever address it came from.
func (m *Map) HandlePong(now time.Time, sender identity.NodeID, from Addr, pong *disco.Pong) []Action {
	m.begin()
	m.landed = false
	n := m.byID[sender]
	if n == nil || pong == nil {
		return nil
	}
	f, ok := n.land(now, pong.TxID)
	if !ok {
		return nil
	}
	m.landed = true
	unproven := n.relayUnproven(now)
	if f.to.UDP.IsValid() {
		p := n.path(f.to.UDP)
		if p == nil {
			return nil
		}
		n.answered(now)
		m.pongByUDP(now, n, p, f)
		m.noteClaim(now, n, p, pong)
		m.acceptSource(now, n, unmap(from.UDP))
	} else {
		if n.relay.url != f.to.Relay {
			if n.relay.down.IsZero() && !f.elsewhere {
				return nil
			}
			m.setRelay(n, f.to.Relay) // it is there, and its own is out of reach, or it pinged from there
		}
		n.answered(now)
		m.pongByRelay(now, n, f)
	}
	m.settle(now, n, "")
	if unproven && n.choice.conn == ConnDirect {
		n.use.resend = true
	}
	m.resend(now, n)
	return m.done()
}

// Landed reports whether the pong that HandlePong took last answered a ping.
func (m *Map) Landed() bool { return m.landed }

// relayUnproven says that payload went to a relay that nothing has come from: a
// first packet need not wait for its retransmission when the direct address
// answers first, or the relay is down.
func (n *node) relayUnproven(now time.Time) bool {
	return n.choice.conn == ConnRelay && !n.use.want.IsZero() && age(now, n.relay.lastHeard) >= unreachableTime
}

// resend sends the last packets again if silence made that necessary and there
// is a path now. After a long outage the session may count as idle: QUIC tries once a
// minute then.
func (m *Map) resend(now time.Time, n *node) {
	if !n.use.resend || m.limited(n) {
		return
	}
	if conn, route := n.way(now); conn != ConnNone {
		n.use.resend = false
		m.add(Action{Kind: Resend, Node: n.id, Route: route})
	}
}

func (m *Map) pongByRelay(now time.Time, n *node, f ping) {
	l := age(now, f.sent)
	if n.relay.latency == 0 {
		n.relay.latency = l
	}
	n.relay.latency = (3*n.relay.latency + l) / 4
	n.relay.lastPong, n.relay.lastHeard = now, now
}

func (m *Map) pongByUDP(now time.Time, n *node, p *path, f ping) {
	before := p.room.limit
	p.room.arrived(f.size, f.sent)
	p.detour = m.cfg.Detour != nil && m.cfg.Detour(p.addr.Addr())
	p.pong(now, age(now, f.sent), f.size)
	m.measured(n, p, age(now, f.sent))
	p.watch.ping = n.unansweredAfter(p.addr, f.sent)
	if p.room.limit != before {
		n.choice.fast = time.Time{}
	}
	if f.room {
		m.tendRoom(now, n, p, false)
	}
	m.claimPath(now, n, p, true)
	unqualified := p.lastBigPong.IsZero() || p.left
	if f.size < p.full() && unqualified && age(now, p.out.lastBig) >= retryPing && !m.limited(n) {
		m.sendPing(now, n, p, p.full())
	}
	m.offer(now, n, p)
}

// offer considers p, which was just answered, for being the address in use.
func (m *Map) offer(now time.Time, n *node, p *path) {
	b := n.usableBest(now)
	switch {
	case !p.usable(now), b == p:
		return
	case b == nil:
		n.best = p
	case n.suspect(now, b), better(p, b) && (p != n.prev || age(now, n.prevAt) >= returnDelay):
		m.leaveFor(now, n, p)
	}
}

// leaveFor changes the address in use.
func (m *Map) leaveFor(now time.Time, n *node, p *path) {
	reason := ReasonBetter
	if n.suspect(now, n.best) {
		reason = ReasonSilent
	}
	n.prev, n.prevAt = n.best, now
	n.best = p
	m.settle(now, n, reason)
}

// noteClaim keeps the address under which the node sees us.
func (m *Map) noteClaim(now time.Time, n *node, p *path, pong *disco.Pong) {
	if src := unmap(pong.Src); src.IsValid() && src.Port() != 0 {
		n.claim = Claim{Node: n.id, From: p.addr, Addr: src, At: now}
	}
}

// acceptSource makes payload welcome from the address that a pong came from: a
// node with several addresses may answer from another than the pinged one.
func (m *Map) acceptSource(now time.Time, n *node, from netip.AddrPort) {
	if !from.IsValid() || !m.filter.Acceptable(from, SourceUDP) {
		return
	}
	if p := m.addPath(now, n, from, SourceUDP); p != nil {
		p.heard(now)
		m.claimPath(now, n, p, false)
	}
}

// HandleCallMeMaybe takes in a call-me-maybe of an admitted node: the addresses
// are entered and pinged at once. One that came by UDP (zero via) and one of an
// unknown node are refused.
func (m *Map) HandleCallMeMaybe(now time.Time, sender identity.NodeID, via identity.RelayURL, addrs []netip.AddrPort) []Action {
	m.begin()
	n := m.byID[sender]
	if n == nil || via.IsZero() || m.limited(n) || m.cfg.Punch == PunchOff {
		return nil
	}
	gap := callMeAnswer
	if n.turn.blind {
		gap = 0
	}
	n.use.heard, n.relay.lastHeard = now, now
	if n.relay.url.IsZero() {
		m.setRelay(n, via)
	}
	m.confirm(now, n)
	named := m.filter.Select(addrs, SourceRelay)
	m.enterNamed(now, n, named)
	m.answerCallMe(now, n, gap)
	m.trickle(now, n)
	m.punchSpray(now, n, named)
	m.settle(now, n, "")
	return m.done()
}

// answerCallMe pings all addresses, and asks for the same if that was not done in
// the last gap: both have to ping at one time. Behind a NAT that shows each
// destination another port nobody can ping us first, and our ping has to find the
// other NAT open for our address: it waits until the node has pinged.
func (m *Map) answerCallMe(now time.Time, n *node, gap time.Duration) {
	asked := !n.settled(now) && m.callMe(now, n, gap)
	switch {
	case asked && !m.nat.Easy:
		n.turn.late = now.Add(callMeWait)
	case !n.turn.late.IsZero(): // the answer to ours: the node pings now
	default:
		m.pingCalled(now, n)
	}
}

// pingCalled pings what a call-me-maybe named, if need be before its time, but not
// more than once in 5 s (S9).
func (m *Map) pingCalled(now time.Time, n *node) {
	n.turn.late = time.Time{}
	over := age(now, n.turn.callMeOver) >= discoveryGap
	if over {
		n.turn.callMeOver = now
	}
	for _, p := range n.paths {
		m.probe(now, n, p, probeWhy{over: over})
	}
}

// enterNamed enters the addresses of a call-me-maybe. Pongs of others are
// forgotten; when the address in use is not among them it is in doubt: it has to
// answer a ping or is left.
func (m *Map) enterNamed(now time.Time, n *node, addrs []netip.AddrPort) {
	for _, a := range addrs {
		if p := m.addPath(now, n, a, SourceRelay); p != nil {
			p.named = now
			p.controlled(now, "call me")
		}
	}
	for _, p := range n.paths {
		switch {
		case p.named.Equal(now):
		case p == n.best:
			n.use.doubt = now
			n.turn.callMe = time.Time{}
		default:
			p.lastPong, p.firstPong = time.Time{}, time.Time{}
		}
	}
}
