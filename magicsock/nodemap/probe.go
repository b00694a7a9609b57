package nodemap

import (
	"slices"
	"time"

	"github.com/nodetun/nodetun/identity"
)

// probeWhy says what a probe may disregard.
type probeWhy struct {
	want bool // an answer is wanted: silence makes the node unreachable
	over bool // the gap between two pings on one address
}

// sendPing emits a ping to a direct address.
func (m *Map) sendPing(now time.Time, n *node, p *path, size int) {
	tx := m.cfg.NewTxID()
	to := UDPAddr(p.addr)
	n.fly(ping{tx: tx, to: to, sent: now, size: size})
	p.out.last = now
	p.out.turn++
	p.out.pending = false
	if size >= p.full() {
		p.out.lastBig = now
		p.out.bigTries++
	}
	if p.watch.ping.IsZero() {
		p.watch.ping = now
	}
	m.add(Action{Kind: SendPing, Node: n.id, To: to, TxID: tx, Size: size})
}

// payPing takes the ping from the budgets for addresses that never answered and
// counts the try (S9). It returns false when there is no budget or the address
// is given up.
func (m *Map) payPing(now time.Time, n *node, p *path) bool {
	if p.answered(now) {
		p.out.tries++
		return true
	}
	if p.givenUp(now) {
		return false
	}
	if !m.payBudget(now, n) {
		p.out.pending = true
		n.turn.pending, n.turn.pendingAt = true, now.Add(pendingGap)
		return false
	}
	if p.out.tries >= maxTries { // the pause is over
		p.out.tries = 0
	}
	if p.out.tries++; p.out.tries >= maxTries {
		p.out.pauseUntil = now.Add(pauseTime)
	}
	return true
}

func (m *Map) payBudget(now time.Time, n *node) bool {
	if !n.unproven.take(now, nodePingRate) {
		return false
	}
	if !m.unproven.take(now, mapPingRate) {
		n.unproven.refund()
		return false
	}
	return true
}

// probe pings an address unless it was pinged too recently, is given up, or the
// budget is spent; in the last case Tick does it later.
func (m *Map) probe(now time.Time, n *node, p *path, why probeWhy) {
	gap := discoveryGap
	if p.answered(now) && !n.retryAt(now).IsZero() {
		gap = retryPing
	}
	if !why.over && age(now, p.out.last) < gap {
		return
	}
	if !n.turn.late.IsZero() && !p.answered(now) {
		return // pingCalled does it when the other side's NAT is open
	}
	if m.payPing(now, n, p) {
		m.sendPing(now, n, p, p.pingSize(now, false))
		if why.want {
			n.want(now)
		}
	}
}

// pingAll pings every address of a node and the relay, then asks the node to do
// the same.
func (m *Map) pingAll(now time.Time, n *node) {
	if m.limited(n) {
		return
	}
	n.turn.last = now
	for _, p := range n.paths {
		m.probe(now, n, p, probeWhy{want: true})
	}
	m.trickle(now, n)
	m.pingRelay(now, n)
	m.callMe(now, n, discoveryGap)
}

// trickle tries some given-up addresses of a paired node that is alive, those
// longest not tried first, with small pings: when UDP comes back the path has to
// be direct within seconds.
func (m *Map) trickle(now time.Time, n *node) {
	if !n.paired || age(now, n.use.heard) >= unreachableTime {
		return
	}
	var paused []*path
	for _, p := range n.paths {
		if p.givenUp(now) && !p.answered(now) && age(now, p.out.last) >= discoveryGap {
			paused = append(paused, p)
		}
	}
	slices.SortStableFunc(paused, func(a, b *path) int { return a.out.last.Compare(b.out.last) })
	for _, p := range paused[:min(len(paused), trickle)] {
		if m.payBudget(now, n) {
			m.sendPing(now, n, p, 0)
		}
	}
}

// pingRelay pings the node through its relay, at most once a second.
func (m *Map) pingRelay(now time.Time, n *node) {
	if n.relay.url.IsZero() || age(now, n.relay.lastPing) < retryPing || m.limited(n) {
		return
	}
	n.want(now)
	m.askRelay(now, n, n.relay.url)
}

// askElsewhere sends a ping through a relay that is not the node's; its pong makes it so.
func (m *Map) askElsewhere(now time.Time, n *node, url identity.RelayURL) {
	last := n.relay.lastPing
	m.askRelay(now, n, url)
	n.relay.lastPing = last
	n.inflight[len(n.inflight)-1].elsewhere = true
}

// askRelay sends a ping through a relay.
func (m *Map) askRelay(now time.Time, n *node, url identity.RelayURL) {
	tx := m.cfg.NewTxID()
	to := RelayAddr(url)
	n.relay.lastPing = now
	n.fly(ping{tx: tx, to: to, sent: now})
	m.add(Action{Kind: SendPing, Node: n.id, To: to, TxID: tx})
}

// callMe asks the node to ping us, unless that was done less than gap ago.
func (m *Map) callMe(now time.Time, n *node, gap time.Duration) bool {
	if n.relay.url.IsZero() || age(now, n.turn.callMe) < gap || m.limited(n) || m.cfg.Punch == PunchOff {
		return false
	}
	n.turn.callMe, n.turn.blind = now, age(now, n.use.heard) >= unreachableTime
	m.add(Action{Kind: SendCallMeMaybe, Node: n.id, To: RelayAddr(n.relay.url)})
	m.punchSockets(now, n)
	return true
}

// discover asks discovery, at most once in 5 s.
func (m *Map) discover(now time.Time, n *node) {
	if age(now, n.turn.discover) < discoveryGap || m.limited(n) {
		return
	}
	n.turn.discover = now
	m.add(Action{Kind: Discover, Node: n.id})
}

// flushPending sends pings that waited for budget.
func (m *Map) flushPending(now time.Time, n *node) {
	if !n.turn.pending || now.Before(n.turn.pendingAt) {
		return
	}
	n.turn.pending = false
	for _, p := range n.paths {
		if p.out.pending && m.payPing(now, n, p) {
			m.sendPing(now, n, p, p.pingSize(now, false))
		}
	}
}

// Ping pings every known address of a node now, as a starting node does with the
// last good addresses of its peers (S4). An answer is not wanted: silence does
// not make the node unreachable.
func (m *Map) Ping(now time.Time, id identity.NodeID) []Action {
	m.begin()
	n := m.byID[id]
	if n == nil {
		return nil
	}
	for _, p := range n.paths {
		m.probe(now, n, p, probeWhy{})
	}
	m.settle(now, n, "")
	return m.done()
}

// Established says that the QUIC handshake with a node is complete: the limits
// for strangers (S6) end and its addresses are pinged.
func (m *Map) Established(now time.Time, id identity.NodeID) []Action {
	m.begin()
	n := m.byID[id]
	if n == nil || n.established {
		return nil
	}
	n.established = true
	if !n.settled(now) {
		m.pingAll(now, n)
	}
	m.settle(now, n, "")
	return m.done()
}

// SendFailed says that the socket refused a packet to a direct address for good
// (no route, not permitted; not a full buffer). The address is left at once.
func (m *Map) SendFailed(now time.Time, id identity.NodeID, to Addr) []Action {
	m.begin()
	n := m.byID[id]
	if n == nil {
		return nil
	}
	p := n.path(unmap(to.UDP))
	if p == nil || p.left {
		return nil
	}
	p.left = true
	if p == n.best {
		m.settle(now, n, ReasonSend)
		if n.awake(now) && !n.settled(now) {
			m.pingAll(now, n)
		}
	}
	m.settle(now, n, "")
	return m.done()
}

// NetworkChanged drops all trust and all history of pings, and pings every node
// that is in use at once; idle nodes that answered before get a few pings, so
// that they learn our new address.
func (m *Map) NetworkChanged(now time.Time) []Action {
	m.begin()
	for _, n := range m.list {
		for _, p := range n.paths {
			p.forget()
		}
		n.inflight = n.inflight[:0]
		n.turn = rounds{}
		n.relay.lastPing = time.Time{}
		wanting := n.wanting(now)
		if !n.use.want.IsZero() && !n.use.sent.IsZero() {
			n.use.resend = true // what is unanswered may not have left the old network
		}
		n.use.want, n.use.stuck = time.Time{}, time.Time{}
		switch {
		case wanting || n.active(now):
			m.pingAll(now, n)
		case !n.use.heard.IsZero() && !m.limited(n):
			n.turn.announces = announceTries
			m.announce(now, n)
		}
		m.settle(now, n, ReasonNetwork)
	}
	return m.done()
}

// announce pings the addresses of an idle node that answered before.
func (m *Map) announce(now time.Time, n *node) {
	if n.turn.announces == 0 || now.Before(n.turn.announceAt) {
		return
	}
	if n.use.heard.After(n.turn.announceAt) && !n.turn.announceAt.IsZero() {
		n.turn.announces = 0 // it knows
		return
	}
	n.turn.announces--
	n.turn.announceAt = now.Add(retryPing * time.Duration(announceTries-n.turn.announces))
	left := trickle
	for _, p := range n.paths {
		if left > 0 && !p.everPong.IsZero() {
			m.probe(now, n, p, probeWhy{over: true})
			left--
		}
	}
}
