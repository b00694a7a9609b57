package nodemap

import (
	"net/netip"
	"time"

	"github.com/nodetun/nodetun/identity"
)

// room finds out how large the packets of a path may be. QUIC grows its packets
// by probes of its own and never makes them smaller, so a path that shrinks under
// a live connection swallows them while all that is small arrives.
//
// While payload goes out in packets of more than 1200 bytes, a ping of their size
// accompanies each ping that tests the path. Four of them unanswered, with an
// answer to a smaller one in between, set a limit, and a search by halves finds
// the largest size that arrives. A path that answers small pings but none of 1200
// bytes, or is in doubt, is searched in the same way if the node joins halves. Full size is tried
// again after 2 s, as a queue that overflows may have dropped four pings, then ever more rarely, and
// in the end every minute.
type room struct {
	limit int           // largest payload known to arrive since the path turned out to be small; 0: no limit
	high  int           // smallest known not to arrive; 0: no search goes on
	inUse int           // size of the largest packets of payload, if over 1200
	used  bool          // such a packet was sent since full size was last tried
	seen  int           // a size that may become inUse
	count int           // how often it was seen
	size  int           // of the ping in flight
	lost  int           // pings of that size unanswered
	low   int           // the largest that was answered since the first of them
	first time.Time     // when the first of that size was sent
	sent  time.Time     // when the last was sent; zero: none in flight
	tried time.Time     // when full size was last tried, or a search ended
	wait  time.Duration // from then until it is tried again
}

// note takes in the size of packets of payload; true when larger ones came into
// use.
func (r *room) note(size, packets int) bool {
	switch {
	case size <= paddedSize || size < r.inUse:
		return false
	case size == r.inUse:
		r.used = true
		return false
	case size != r.seen:
		r.seen, r.count = size, 0
	}
	if r.count += packets; r.count >= sizeInUse {
		r.inUse, r.used, r.seen, r.count = size, true, 0, 0
		return true
	}
	return false
}

// max returns the limit if packets in use are larger.
func (r *room) max() int {
	if r.limit > 0 && (r.inUse > r.limit || r.limit < paddedSize) {
		return r.limit
	}
	return 0
}

// full is the size of pings that prove the path: what QUIC needs, or what halves
// need on a small path.
func (p *path) full() int {
	if r := &p.room; r.limit > 0 && r.limit < paddedSize {
		return r.limit
	}
	return paddedSize
}

// next returns the size to ask for in a search, 0 when it is over.
func (r *room) next() int {
	switch {
	case r.high == 0 || r.limit > 0 && r.high-r.limit <= sizeStep:
		return 0
	case r.limit == 0:
		return cutSize
	case r.high == r.inUse && r.high-codedExtra > r.limit: // if they are too large only coded
		return r.high - codedExtra
	}
	return (r.limit + r.high) / 2
}

// arrived notes that a ping of that size was answered.
func (r *room) arrived(size int, sent time.Time) {
	if !sent.Before(r.first) {
		r.low = max(r.low, size)
	}
	if !r.sent.IsZero() && size >= r.size {
		r.sent = time.Time{}
	}
	if r.limit == 0 && (r.high == 0 || size < cutSize) {
		return
	}
	r.limit = max(r.limit, size)
	if r.limit >= r.high { // no search, or it grew meanwhile
		r.high = 0
	}
	if r.limit >= max(r.inUse, paddedSize) && r.high == 0 {
		r.limit = 0
	}
}

// tendRoom asks for the size of a path, or draws the conclusion from what was
// asked. together says that another ping leaves now.
func (m *Map) tendRoom(now time.Time, n *node, p *path, together bool) {
	r := &p.room
	if !n.features.MTUProbe || m.limited(n) {
		return
	}
	if !r.sent.IsZero() {
		if !due(now, r.sent.Add(p.grace())) || !m.roomLost(now, n, p) {
			return
		}
	}
	switch size := r.next(); {
	case size > 0:
		m.askRoom(now, n, p, size)
	case r.high > 0: // found
		r.high, r.tried = 0, now
	case r.limit > 0:
		if age(now, r.tried) >= r.wait {
			if r.wait >= sizeRetry {
				if !r.used {
					r.inUse = 0
				}
				r.used = false
			}
			r.tried = now
			m.askRoom(now, n, p, max(r.inUse, paddedSize))
		}
	case together && r.inUse > paddedSize:
		m.askRoom(now, n, p, r.inUse)
	case n.features.Cut && (p.narrow() || n.suspect(now, p)) && age(now, r.tried) >= sizeRetry:
		r.high, r.wait = paddedSize, sizeAgain
		m.askRoom(now, n, p, cutSize)
	}
}

// roomLost draws the conclusion from a ping without an answer; true when there is
// something to ask next.
func (m *Map) roomLost(now time.Time, n *node, p *path) bool {
	r := &p.room
	r.sent = time.Time{}
	alive := !p.lastPong.Before(r.first)
	switch r.lost++; {
	case r.lost < r.tries():
		if !alive {
			m.sendPing(now, n, p, 0) // to tell a small path from a dead one
		}
		m.sendRoom(now, n, p)
		if r.lost == sizeTries { // in doubt: the rest at once, as waiting costs payload
			m.sendRoom(now, n, p)
			r.lost++
		}
		return false
	case !alive: // dead, not small: that is for watch to find
		r.high = 0
		return false
	case r.high > 0 && r.limit == 0: // not even halves
		r.high, r.tried = 0, now
		return false
	case r.high > 0:
		r.high = r.size
	case r.limit > 0: // full size was tried again
		r.wait = min(2*r.wait, sizeRetry)
		return false
	case r.low >= paddedSize:
		r.limit, r.high, r.wait = paddedSize, r.size, sizeAgain
		n.choice.fast = time.Time{}
	case n.features.Cut:
		r.high, r.wait = paddedSize, sizeAgain
	}
	return true
}

// tries is how many pings of one size have to stay unanswered.
func (r *room) tries() int {
	if r.limit == 0 && r.high == 0 {
		return sizeDoubt
	}
	return sizeTries
}

// askRoom begins to ask whether packets of that size arrive.
func (m *Map) askRoom(now time.Time, n *node, p *path, size int) {
	r := &p.room
	r.size, r.lost, r.low, r.first = size, 0, 0, now
	m.sendRoom(now, n, p)
}

func (m *Map) sendRoom(now time.Time, n *node, p *path) {
	p.room.sent = now
	tx, to := m.cfg.NewTxID(), UDPAddr(p.addr)
	n.fly(ping{tx: tx, to: to, sent: now, size: p.room.size, room: true})
	m.add(Action{Kind: SendPing, Node: n.id, To: to, TxID: tx, Size: p.room.size})
}

// roomDue returns when the size of a path is to be looked at, zero for never.
func (n *node) roomDue(p *path) time.Time {
	r := &p.room
	switch {
	case !n.features.MTUProbe:
		return time.Time{}
	case !r.sent.IsZero():
		return r.sent.Add(p.grace())
	case r.limit > 0:
		return r.tried.Add(r.wait)
	}
	return time.Time{}
}

// Cutter returns the node whose packets may come in halves from an address: it
// owns the address, has answered there within the last 6.5 s, and said that it
// cuts.
func (m *Map) Cutter(now time.Time, from netip.AddrPort) (identity.NodeID, bool) {
	o, ok := m.ownerOf(unmap(from))
	if !ok || !o.node.features.Cut || age(now, o.path.lastPong) >= trustTime {
		return identity.NodeID{}, false
	}
	return o.node.id, true
}
