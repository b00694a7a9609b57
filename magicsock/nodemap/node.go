package nodemap

import (
	"net/netip"
	"slices"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock/disco"
)

// node is what is known about one node.
type node struct {
	id     identity.NodeID
	slot   uint64
	mapped netip.AddrPort

	// wanted: we added it or asked for its mapped address. established: its QUIC
	// handshake is complete. paired: Config.Peer said so.
	wanted, established, paired bool

	features Features
	nat      NAT

	relay    relayPath
	paths    []*path
	best     *path // the address in use; may have become unusable
	prev     *path // left for a better one at prevAt
	prevAt   time.Time
	cand     *path // gets the S7 grant while nothing is usable
	candAt   time.Time
	inflight []ping

	use      usage
	turn     rounds
	choice   choice
	length   length
	unproven bucket // pings to addresses that never answered
	claim    Claim
}

// relayPath is what is known about the relay of a node.
type relayPath struct {
	url                                        identity.RelayURL
	named                                      Source // who named it; empty: the node was heard through it
	lastPing, lastPong, lastPayload, lastHeard time.Time
	latency                                    time.Duration
	down                                       time.Time // our link to it broke; zero: it works, or is not in use
}

// usage says when the node was last used and heard.
type usage struct {
	sent, received time.Time // payload
	heard          time.Time // any packet
	want           time.Time // the oldest thing sent that wants an answer and has none
	stuck          time.Time // payload had no usable path since
	indirect       time.Time // there is something to send and no usable direct address since
	resend         bool      // send the last packets again once there is a path
	doubt          time.Time // something hinted that the address in use no longer works both ways
	created        time.Time
}

// rounds says when all addresses were last pinged.
type rounds struct {
	last       time.Time // of all addresses
	callMe     time.Time // call-me-maybe sent
	elsewhere  time.Time // a relay that is not the node's was asked for it
	blind      bool      // nothing had been heard of the node for a while then: it may not have got it
	late       time.Time // when to ping the addresses of a call-me-maybe; zero: done
	callMeOver time.Time // a received call-me-maybe last overrode the ping gap
	retry      time.Time // addresses that had answered, tried again
	discover   time.Time
	punch      time.Time // last attempt to get through a hard NAT
	announces  int       // pings of an idle node left after a network change
	announceAt time.Time
	pending    bool // some path is waiting for budget, until pendingAt
	pendingAt  time.Time
}

// choice is the path that payload takes now.
type choice struct {
	conn  ConnType
	route Route
	fast  time.Time // Route answers with route until then, without a look
	due   time.Time // Tick has something to do for the node, zero for nothing

	switches   uint64
	reasons    map[Reason]uint64
	lastSwitch time.Time
	lastReason Reason
}

// ping is one ping in flight.
type ping struct {
	tx   disco.TxID
	to   Addr
	sent time.Time
	size int
	room bool // asks for the size, not for life
	// elsewhere: through a relay that the node is moved to by the pong.
	elsewhere bool
}

// path returns the path to a direct address, nil for none.
func (n *node) path(a netip.AddrPort) *path {
	for _, p := range n.paths {
		if p.addr == a {
			return p
		}
	}
	return nil
}

// active says that payload went or came within the last 45 s.
func (n *node) active(now time.Time) bool {
	return now.Before(n.sessionEnd())
}

// sessionEnd returns when the session falls idle.
func (n *node) sessionEnd() time.Time {
	t := later(n.use.sent, n.use.received)
	if t.IsZero() {
		return t
	}
	return t.Add(sessionTime)
}

// wanting says that something is unanswered and not yet called unreachable.
func (n *node) wanting(now time.Time) bool {
	return age(now, n.use.want) < unreachableTime
}

// awake says that the node's paths are tended; otherwise nothing is sent.
func (n *node) awake(now time.Time) bool { return n.active(now) || n.wanting(now) }

// hasRelay says that the node has a relay, and that our link to it has not been
// down for 2 s.
func (n *node) hasRelay(now time.Time) bool {
	return !n.relay.url.IsZero() && !waited(now, n.relay.down, relayDownTime)
}

// want notes that something was sent that wants an answer.
func (n *node) want(now time.Time) {
	if n.use.want.IsZero() {
		n.use.want = now
	}
}

// answered notes what only a node that is there can have sent: a pong that landed, or payload,
// which QUIC has no way to tell us whether it opened.
func (n *node) answered(now time.Time) {
	if age(now, n.use.want) != forever && age(now, n.use.want) >= resendSilence && !n.use.sent.IsZero() {
		n.use.resend = true
	}
	n.use.want = time.Time{}
	n.use.heard = now
}

// usableBest returns the address in use if payload may go there.
func (n *node) usableBest(now time.Time) *path {
	if n.best != nil && n.best.usable(now) {
		return n.best
	}
	return nil
}

// suspect says that p is in doubt.
func (n *node) suspect(now time.Time, p *path) bool {
	return due(now, p.suspectAt(n.use.doubt))
}

// settled says that a usable address is in use and beyond doubt.
func (n *node) settled(now time.Time) bool {
	p := n.usableBest(now)
	return p != nil && !n.suspect(now, p)
}

// pick returns the best usable address other than not, preferring addresses
// beyond doubt.
func (n *node) pick(now time.Time, not *path) *path {
	var best *path
	for _, p := range n.paths {
		if p == not || !p.usable(now) {
			continue
		}
		if best == nil || n.preferred(now, p, best) {
			best = p
		}
	}
	return best
}

func (n *node) preferred(now time.Time, a, b *path) bool {
	if sa, sb := n.suspect(now, a), n.suspect(now, b); sa != sb {
		return sb
	}
	return better(a, b)
}

// candidate returns the address that gets the S7 grant: one that the node was
// heard from, else one that answered before, else each in turn for 5 s.
func (n *node) candidate(now time.Time) *path {
	c := n.cand
	if c != nil && !c.left && (age(now, c.lastHeard) < unreachableTime || age(now, n.candAt) < allowanceTime) {
		return c
	}
	var next *path
	for _, p := range n.paths {
		if (p.owned || p.lastHeard.IsZero()) && (next == nil || n.moreLikely(now, p, next)) {
			next = p
		}
	}
	n.cand, n.candAt = next, now
	return next
}

func (n *node) moreLikely(now time.Time, a, b *path) bool {
	la, lb := age(now, a.lastHeard) < unreachableTime, age(now, b.lastHeard) < unreachableTime
	if la != lb {
		return la
	}
	if a.left != b.left {
		return b.left
	}
	if (a == n.cand) != (b == n.cand) {
		return b == n.cand
	}
	if !a.grant.start.Equal(b.grant.start) { // the one that waited longest
		return a.grant.start.Before(b.grant.start)
	}
	return a.everPong.After(b.everPong)
}

// fly notes a ping in flight; the oldest one is forgotten when there are too many.
func (n *node) fly(f ping) {
	if len(n.inflight) >= maxInflight {
		n.inflight = slices.Delete(n.inflight, 0, 1)
	}
	n.inflight = append(n.inflight, f)
}

// land takes the ping with tx out of flight.
func (n *node) land(now time.Time, tx disco.TxID) (ping, bool) {
	n.expire(now)
	i := slices.IndexFunc(n.inflight, func(f ping) bool { return f.tx == tx })
	if i < 0 {
		return ping{}, false
	}
	f := n.inflight[i]
	n.inflight = slices.Delete(n.inflight, i, i+1)
	return f, true
}

// expire forgets pings that can no longer be answered.
func (n *node) expire(now time.Time) {
	i := 0
	for i < len(n.inflight) && age(now, n.inflight[i].sent) > pingTimeout {
		i++
	}
	n.inflight = slices.Delete(n.inflight, 0, i)
}

// unansweredAfter returns when the oldest ping to a still in flight that is
// younger than t was sent, zero for none.
func (n *node) unansweredAfter(a netip.AddrPort, t time.Time) time.Time {
	for _, f := range n.inflight {
		if f.to.UDP == a && f.sent.After(t) && !f.room {
			return f.sent
		}
	}
	return time.Time{}
}
