package engine

import (
	"sync"
	"sync/atomic"
	"time"
)

// carrier is what takes a flow to its peer.
type carrier uint8

const (
	// carrierNetstack ends TCP here and carries its bytes on a QUIC stream.
	carrierNetstack carrier = iota + 1
	// carrierDatagram carries the packets themselves as QUIC DATAGRAMs.
	carrierDatagram
	// carrierMirror gives the packets back to the host.
	carrierMirror
)

// flowKey names a flow of one peer, seen from this host. The two overlay
// addresses follow from the peer. For ICMP echo, local is the identifier and
// remote 0; for protocols without ports both are 0.
type flowKey struct {
	proto         uint8
	v4            bool
	local, remote uint16
}

// flowEntry is the verdict on one flow.
type flowEntry struct {
	key     flowKey
	carrier carrier
	// generation is that of the peer's rules when the verdict was given; an
	// entry of another generation is judged again (S16).
	generation uint64
	// sent and received are when this host and the peer last sent on the flow.
	sent, received time.Time
	// sends and receives count packets, up to two.
	sends, receives uint8
	// theirs: the peer opened the flow, under a rule. Our answers are no pinhole
	// that would outlive the rule (S16).
	theirs bool
	// closing is set once a FIN or RST of this host passed.
	closing bool

	// class is the list that the entry is in, prev and next its neighbours there.
	class      flowClass
	prev, next *flowEntry
}

// flowClass says which entries go first when there is no room.
type flowClass uint8

const (
	classFleeting flowClass = iota // unanswered, one question and its answer, closed
	classTheirs                    // opened by the peer: our answers are no flow of our own
	classTalk                      // anything else but TCP
	classTCP                       // an ssh that is silent for an hour
	classes       = iota
)

// Limits of a peer's flow table (S16).
const (
	maxFlows       = 4096
	maxTheirs      = maxFlows / 4
	pinholeOneWay  = 30 * time.Second  // nothing came back yet
	pinholeTwoWay  = 180 * time.Second // the peer answered
	pinholeAlone   = time.Hour         // only the peer goes on sending
	tcpEntryIdle   = 2 * time.Hour     // RFC 5382 REQ-5 asks for 2 h 4 min of NATs
	tcpEntryClosed = 10 * time.Second
)

// flowTable maps the flows with one peer to their verdicts. What this host
// opened may be answered whatever the rules say: it is the stateful half of the
// check. It is bounded; the zero value is ready for use.
type flowTable struct {
	// evicted counts living entries that had to go, nil for nobody.
	evicted *atomic.Uint64

	mu      sync.Mutex // guards the fields below
	entries map[flowKey]*flowEntry
	// oldest are the ends of a list of entries for each class, by the time of the last
	// packet of either side.
	oldest [classes]flowList
}

// flowList has its oldest entry first.
type flowList struct {
	first, last *flowEntry
	n           int
}

// outbound notes that this host sends on the flow and returns its carrier.
// decide is asked for a flow without a living entry of this generation.
func (t *flowTable) outbound(key flowKey, generation uint64, now time.Time, closing bool, decide func() carrier) carrier {
	t.mu.Lock()
	defer t.mu.Unlock()
	entry := t.entries[key]
	if entry == nil || entry.generation != generation || entry.expired(now) {
		theirs := entry != nil && entry.theirs && !entry.expired(now)
		entry = &flowEntry{key: key, carrier: decide(), generation: generation, theirs: theirs}
		t.insertLocked(entry, now)
	}
	entry.sent = now
	entry.sends = min(entry.sends+1, 2)
	entry.closing = entry.closing || closing
	t.touchLocked(entry)
	return entry.carrier
}

// answers reports whether a packet of the peer belongs to a flow that this
// host opened, and notes that the peer answered.
func (t *flowTable) answers(key flowKey, generation uint64, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	entry := t.entries[key]
	if entry == nil || entry.theirs || entry.generation != generation || entry.expired(now) {
		return false
	}
	t.receivedLocked(entry, now)
	return true
}

// inbound notes that a rule let a packet of the peer in, on a flow that this
// host did not open. Such notes cost this host no flow of its own in which there was more
// than a question.
func (t *flowTable) inbound(key flowKey, generation uint64, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	entry := t.entries[key]
	if entry == nil || entry.expired(now) {
		full := len(t.entries) >= maxFlows && t.oldest[classTheirs].n == 0 && t.oldest[classFleeting].n == 0
		if entry == nil && full {
			return
		}
		entry = &flowEntry{key: key, carrier: carrierDatagram, generation: generation, theirs: true}
		t.insertLocked(entry, now)
	}
	t.receivedLocked(entry, now)
}

func (t *flowTable) receivedLocked(entry *flowEntry, now time.Time) {
	entry.received = now
	entry.receives = min(entry.receives+1, 2)
	t.touchLocked(entry)
}

// clear forgets everything.
func (t *flowTable) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.entries)
	t.oldest = [classes]flowList{}
}

// size counts the entries.
func (t *flowTable) size() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.entries)
}

// insertLocked adds an entry in place of one with the same key, or of another where there
// is no room.
func (t *flowTable) insertLocked(entry *flowEntry, now time.Time) {
	if t.entries == nil {
		t.entries = make(map[flowKey]*flowEntry)
	}
	if old := t.entries[entry.key]; old != nil {
		t.removeLocked(old)
	}
	switch theirs := &t.oldest[classTheirs]; {
	case entry.theirs && (theirs.n >= maxTheirs || theirs.n > 0 && len(t.entries) >= maxFlows):
		t.evictLocked(theirs.first, now)
	case len(t.entries) >= maxFlows:
		t.evictLocked(t.victimLocked(now), now)
	}
	t.entries[entry.key] = entry
	entry.class = entry.classOf()
	t.oldest[entry.class].push(entry)
}

// victimLocked finds the entry that is missed least: a fleeting one, else one whose time is
// over, else the one in which neither side sent for longest.
func (t *flowTable) victimLocked(now time.Time) *flowEntry {
	if first := t.oldest[classFleeting].first; first != nil {
		return first
	}
	var victim *flowEntry
	for _, list := range t.oldest {
		if first := list.first; first != nil && (victim == nil || first.expired(now)) {
			victim = first
			if first.expired(now) {
				break
			}
		}
	}
	return victim
}

func (t *flowTable) evictLocked(entry *flowEntry, now time.Time) {
	if t.evicted != nil && !entry.expired(now) {
		t.evicted.Add(1)
	}
	t.removeLocked(entry)
}

func (t *flowTable) removeLocked(entry *flowEntry) {
	t.oldest[entry.class].remove(entry)
	delete(t.entries, entry.key)
}

// touchLocked puts an entry, to which something happened now, behind all others of its
// class.
func (t *flowTable) touchLocked(entry *flowEntry) {
	class := entry.classOf()
	if class == entry.class && t.oldest[class].last == entry {
		return
	}
	t.oldest[entry.class].remove(entry)
	entry.class = class
	t.oldest[class].push(entry)
}

func (f *flowEntry) classOf() flowClass {
	switch {
	case f.theirs:
		return classTheirs
	case f.closing:
		return classFleeting
	case f.key.proto == protoTCP:
		return classTCP
	case f.receives == 0, f.sends < 2 && f.receives < 2:
		return classFleeting
	default:
		return classTalk
	}
}

func (l *flowList) push(f *flowEntry) {
	f.prev, f.next = l.last, nil
	if l.last == nil {
		l.first = f
	} else {
		l.last.next = f
	}
	l.last = f
	l.n++
}

func (l *flowList) remove(f *flowEntry) {
	if f.prev == nil {
		l.first = f.next
	} else {
		f.prev.next = f.next
	}
	if f.next == nil {
		l.last = f.prev
	} else {
		f.next.prev = f.prev
	}
	f.prev, f.next = nil, nil
	l.n--
}

// expired reports whether the entry's time is over: packets of either side renew it, as in
// connection tracking, those of the peer alone for an hour (S16).
func (f *flowEntry) expired(now time.Time) bool {
	idle := min(now.Sub(f.sent), now.Sub(f.received))
	switch {
	case f.key.proto == protoTCP && f.closing:
		return idle > tcpEntryClosed
	case f.key.proto == protoTCP:
		return idle > tcpEntryIdle
	case !f.theirs && now.Sub(f.sent) > pinholeAlone:
		return true
	case f.received.IsZero():
		return idle > pinholeOneWay
	default:
		return idle > pinholeTwoWay
	}
}
