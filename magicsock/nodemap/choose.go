package nodemap

import (
	"net/netip"
	"time"

	"github.com/nodetun/nodetun/identity"
)

// reselect replaces an address in use that is no longer usable, and one in doubt
// when another is beyond it.
func (m *Map) reselect(now time.Time, n *node) {
	b := n.usableBest(now)
	switch {
	case b == nil:
		n.best = n.pick(now, n.best)
	case n.suspect(now, b):
		if p := n.pick(now, b); p != nil && !n.suspect(now, p) {
			n.prev, n.prevAt = b, now
			n.best = p
		}
	}
}

// settle decides the path of a node anew, reports a change and sets the times at
// which it has to be looked at again. An empty reason is derived.
func (m *Map) settle(now time.Time, n *node, reason Reason) {
	m.reselect(now, n)
	conn, route := n.decide(now)
	c := &n.choice
	if conn != c.conn || route.way() != c.route.way() {
		m.change(now, n, conn, route, reason)
	}
	c.route = route
	switch {
	case !n.awake(now) || n.usableBest(now) != nil:
		n.use.indirect = time.Time{}
	case n.use.indirect.IsZero():
		n.use.indirect = now
	}
	c.due = m.nextDue(now, n)
	c.fast = n.fastUntil()
	m.lower(c.due)
	if !n.paired && m.pruneAt.IsZero() {
		m.pruneAt = now.Add(pruneGap)
		m.lower(m.pruneAt)
	}
}

// decide returns the path that payload takes; none if there is no payload.
func (n *node) decide(now time.Time) (ConnType, Route) {
	if !n.active(now) {
		return ConnNone, Route{Node: n.id}
	}
	return n.way(now)
}

// way returns the path that payload would take.
func (n *node) way(now time.Time) (ConnType, Route) {
	r := Route{Node: n.id}
	p := n.usableBest(now)
	if p != nil {
		r.UDP = p.addr
		if r.Max = p.room.max(); r.Max > 0 {
			r.Cut, r.Wide = n.features.Cut, n.relay.url
		}
		if !n.hasRelay(now) || !n.suspect(now, p) {
			r.Coded, r.Latency = n.mayCode(p) && r.Max == 0, p.latency
			return ConnDirect, r
		}
		r.Relay = n.relay.url
		return ConnMixed, r
	}
	if n.relay.url.IsZero() {
		return ConnNone, r
	}
	r.Relay = n.relay.url
	return ConnRelay, r
}

// mayCode says that packets by an address may be coded, if they are not too large for it then.
func (n *node) mayCode(p *path) bool { return n.features.FEC && p.latency >= codedFrom }

// change records and reports a change of path. When the address in use fell
// silent, the last packets go out again on the new path.
func (m *Map) change(now time.Time, n *node, conn ConnType, route Route, reason Reason) {
	c := &n.choice
	derived := n.reasonFor(now, conn, route)
	if reason == "" || derived == ReasonIdle {
		reason = derived
	}
	before, from := c.conn, c.route
	c.conn, c.route = conn, route
	if reason != ReasonIdle && before != ConnNone {
		c.switches++
		if c.reasons == nil {
			c.reasons = make(map[Reason]uint64)
		}
		c.reasons[reason]++
		c.lastSwitch, c.lastReason = now, reason
	}
	if before == conn && conn == ConnNone {
		return
	}
	m.add(Action{
		Kind: PathChanged, Node: n.id, Before: before, BeforeRoute: from,
		After: conn, Route: route, Reason: reason,
	})
	if reason != ReasonBetter {
		m.resendMissed(n, before, from, route)
	}
}

// resendMissed sends the last packets again on the part of the new path that the
// old one did not have: the old one swallowed them.
func (m *Map) resendMissed(n *node, before ConnType, from, to Route) {
	if before != ConnDirect && before != ConnMixed || m.limited(n) {
		return
	}
	if to.UDP == from.UDP {
		to.UDP = netip.AddrPort{}
	}
	if to.Relay == from.Relay {
		to.Relay = identity.RelayURL{}
	}
	if !to.IsZero() && !n.use.sent.IsZero() {
		m.add(Action{Kind: Resend, Node: n.id, Route: to})
	}
}

// reasonFor derives the reason of a change from what is known.
func (n *node) reasonFor(now time.Time, conn ConnType, route Route) Reason {
	before, from := n.choice.conn, n.choice.route
	wasDirect := before == ConnDirect || before == ConnMixed
	switch {
	case !n.active(now):
		return ReasonIdle
	case conn == ConnMixed:
		return ReasonSilent
	case conn == ConnDirect && wasDirect && route.UDP == from.UDP:
		return ReasonAlive
	case conn == ConnDirect && wasDirect:
		return ReasonSilent
	case conn == ConnDirect:
		return ReasonPong
	case conn == ConnRelay && (before == ConnRelay || !n.use.stuck.IsZero()):
		return ReasonRelay
	case conn == ConnRelay && before == ConnNone:
		return ReasonFirst
	}
	if p := n.path(from.UDP); p == nil || !p.owned {
		return ReasonOwner
	} else if p.left {
		return ReasonSilent
	}
	return ReasonTrust
}

// nextDue returns when Tick has to look at the node, zero for never.
func (m *Map) nextDue(now time.Time, n *node) time.Time {
	var t time.Time
	if n.turn.pending {
		t = n.turn.pendingAt
	}
	t = earlier(t, n.turn.late)
	if n.turn.announces > 0 {
		t = earlier(t, n.turn.announceAt)
	}
	if n.active(now) {
		t = earlier(t, n.sessionEnd())
	}
	if !n.awake(now) || m.limited(n) {
		return t
	}
	if n.wanting(now) {
		t = earlier(t, n.use.want.Add(unreachableTime))
	}
	p := n.usableBest(now)
	if p == nil {
		if m.nat.Hard && m.mayPunch(n.use.indirect.Add(punchDelay), n, punchDelay) {
			t = earlier(t, later(n.use.indirect.Add(punchDelay), n.turn.callMe.Add(callMeAnswer)))
		}
		return earlier(t, n.searchAt(now))
	}
	t = earlier(t, earlier(p.lastPong.Add(trustTime), n.pingDue(p)))
	t = earlier(t, n.roomDue(p))
	if n.hasRelay(now) {
		t = earlier(t, p.leaveAt())
	}
	if n.suspect(now, p) {
		return earlier(t, earlier(n.turn.last.Add(discoveryGap), n.relayPingAt(now)))
	}
	t = earlier(t, n.warmAt(now))
	return earlier(t, p.suspectAt(n.use.doubt))
}

// warmAt returns when the relay is to be pinged so that it is ready when the
// direct address dies, zero for never. No answer is wanted.
func (n *node) warmAt(now time.Time) time.Time {
	if n.relay.url.IsZero() || !n.active(now) {
		return time.Time{}
	}
	if n.relay.lastPing.IsZero() {
		return now
	}
	return n.relay.lastPing.Add(relayWarm)
}

// searchAt returns when a node without a usable address is to be looked at.
func (n *node) searchAt(now time.Time) time.Time {
	var t time.Time
	if n.searching(now) {
		t = n.turn.last.Add(discoveryGap)
	}
	t = earlier(t, n.retryAt(now))
	for _, p := range n.paths {
		t = earlier(t, n.roomDue(p))
	}
	return earlier(t, n.relayPingAt(now))
}

// relayPingAt returns when the relay is to be pinged, zero for never.
func (n *node) relayPingAt(now time.Time) time.Time {
	if n.relay.url.IsZero() || !n.wanting(now) {
		return time.Time{}
	}
	return later(n.use.want, n.relay.lastPing).Add(retryPing)
}

// fastUntil returns until when Route needs no second look even if payload is
// sent all the time.
func (n *node) fastUntil() time.Time {
	c := &n.choice
	switch c.conn {
	case ConnNone:
		return time.Time{}
	case ConnRelay:
		return earlier(c.due, n.turn.last.Add(discoveryGap))
	}
	t := earlier(c.due, n.best.out.last.Add(sendingPing))
	if gap := n.best.upgradeGap(); gap > 0 {
		t = earlier(t, n.turn.last.Add(gap))
	}
	return t
}
