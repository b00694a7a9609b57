package nodemap

import (
	"time"
)

// Tick does what is due: heartbeats, probes, changes of path that come from
// silence, pruning. It returns the actions and the value of [Map.Next].
func (m *Map) Tick(now time.Time) ([]Action, time.Time) {
	m.begin()
	for _, n := range m.list {
		if due(now, n.choice.due) {
			m.service(now, n, "")
			if due(now, n.choice.due) { // what was due is done; never spin
				n.choice.due = now.Add(spinGuard)
			}
		}
	}
	if due(now, m.pruneAt) {
		m.prune(now)
	}
	m.next = m.pruneAt
	for _, n := range m.list {
		m.lower(n.choice.due)
	}
	return m.done(), m.next
}

// lower moves Next to t if that is earlier.
func (m *Map) lower(t time.Time) { m.next = earlier(m.next, t) }

// expect makes Tick look at the node at t or earlier.
func (m *Map) expect(n *node, t time.Time) {
	n.choice.due = earlier(n.choice.due, t)
	m.lower(n.choice.due)
}

// service does what is due for one node and settles its path.
func (m *Map) service(now time.Time, n *node, reason Reason) {
	n.expire(now)
	if n.awake(now) && !m.limited(n) {
		m.reselect(now, n)
		if p := n.usableBest(now); p != nil {
			m.tend(now, n, p)
		}
		if n.usableBest(now) == nil {
			m.search(now, n)
		}
		m.tendRelay(now, n)
	}
	if due(now, n.turn.late) {
		m.pingCalled(now, n)
	}
	m.announce(now, n)
	m.flushPending(now, n)
	m.settle(now, n, reason)
}

// tend pings the address in use when it is time, and leaves it when it is dead.
func (m *Map) tend(now time.Time, n *node, p *path) {
	if due(now, p.leaveAt()) && (n.hasRelay(now) || n.pick(now, p) != nil) {
		p.left = true
		m.settle(now, n, ReasonSilent)
		return
	}
	sending := n.use.sent.After(p.out.last)
	ping := due(now, n.pingDue(p))
	if ping {
		m.payPing(now, n, p)
		m.sendPing(now, n, p, p.pingSize(now, sending))
		n.want(now)
	}
	m.tendRoom(now, n, p, ping && sending)
	switch {
	case n.suspect(now, p):
		if age(now, n.turn.last) >= discoveryGap {
			m.pingAll(now, n)
		}
	case n.upgradeDue(now, p) && n.use.sent.After(n.turn.last):
		m.pingAll(now, n)
	}
}

// pingDue returns when the address in use is to be pinged.
func (n *node) pingDue(p *path) time.Time {
	last := p.out.last
	if !p.watch.ping.IsZero() {
		return last.Add(retryPing)
	}
	t := last.Add(heartbeat)
	if n.use.sent.After(last) {
		t = last.Add(sendingPing)
	}
	if second := p.firstPong.Add(secondPing); last.Before(second) {
		t = earlier(t, second)
	}
	if !p.watch.sent.IsZero() {
		t = earlier(t, p.watch.sent.Add(p.watch.delay()))
	}
	if n.use.doubt.After(last) {
		t = earlier(t, later(n.use.doubt, last.Add(retryPing)))
	}
	return t
}

// upgradeDue says that it is time to look for something better than p.
func (n *node) upgradeDue(now time.Time, p *path) bool {
	gap := p.upgradeGap()
	return gap > 0 && age(now, n.turn.last) >= gap
}

// search looks for a direct address while there is none to use.
func (m *Map) search(now time.Time, n *node) {
	if n.searchDue(now) {
		m.pingAll(now, n)
		if !n.settled(now) && age(now, n.use.want) >= discoveryGap {
			m.discover(now, n)
		}
	}
	if m.nat.Hard && m.mayPunch(now, n, punchDelay) {
		m.callMe(now, n, callMeAnswer)
	}
	for _, p := range n.paths {
		if due(now, n.roomDue(p)) || p.narrow() {
			m.tendRoom(now, n, p, false)
		}
	}
	if due(now, n.retryAt(now)) {
		n.turn.retry = now
		for _, p := range n.paths {
			if p.answered(now) {
				m.probe(now, n, p, probeWhy{want: true})
			}
		}
	}
}

// searchDue says that all addresses are to be pinged again: payload was sent since
// the last time or a moment ago, or an answer is wanted.
func (n *node) searchDue(now time.Time) bool {
	return n.searching(now) && age(now, n.turn.last) >= discoveryGap
}

// searching says that a direct address is looked for. A session that says nothing
// for a moment goes on looking: its next packet is to go directly.
func (n *node) searching(now time.Time) bool {
	return n.use.sent.After(n.turn.last) || n.wanting(now) || age(now, later(n.use.sent, n.use.received)) < searchTime
}

// retryAt returns when addresses that had answered are to be pinged again, zero for never: while
// something is unanswered, or payload has nowhere to go, though the node may be heard.
func (n *node) retryAt(now time.Time) time.Time {
	var since time.Time
	if n.wanting(now) {
		since = n.use.want
	}
	if age(now, n.use.sent) < unreachableTime {
		since = earlier(since, n.use.stuck)
	}
	if since.IsZero() {
		return since
	}
	return later(since, n.turn.retry).Add(retryPing)
}

// tendRelay pings through the relay while it carries payload without an answer.
func (m *Map) tendRelay(now time.Time, n *node) {
	if n.usableBest(now) != nil && !n.suspect(now, n.best) {
		if due(now, n.warmAt(now)) {
			m.askRelay(now, n, n.relay.url)
		}
		return
	}
	if n.wanting(now) && age(now, n.use.want) >= retryPing {
		m.pingRelay(now, n)
	}
}
