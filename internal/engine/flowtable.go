package engine

import (
	"sync"
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
	carrier carrier
	// generation is that of the peer's rules when the verdict was given; an
	// entry of another generation is judged again (S16).
	generation uint64
	// sent is when this host last sent on the flow: only that keeps its
	// pinhole open. received is when the peer last answered.
	sent, received time.Time
	// theirs: the peer opened the flow, under a rule. Our answers are no pinhole
	// that would outlive the rule (S16).
	theirs bool
	// closing is set once a FIN or RST of this host passed.
	closing bool
}

// Limits of a peer's flow table (S16).
const (
	maxFlows       = 4096
	pinholeOneWay  = 30 * time.Second  // nothing came back yet
	pinholeTwoWay  = 180 * time.Second // the peer answered
	tcpEntryIdle   = 2 * time.Hour     // RFC 5382 REQ-5 asks for 2 h 4 min of NATs
	tcpEntryClosed = 10 * time.Second
)

// flowTable maps the flows with one peer to their verdicts. What this host
// opened may be answered whatever the rules say: it is the stateful half of the
// check. It is bounded; the zero value is ready for use.
type flowTable struct {
	mu      sync.Mutex
	entries map[flowKey]*flowEntry
}

// outbound notes that this host sends on the flow and returns its carrier.
// decide is asked for a flow without a living entry of this generation.
func (t *flowTable) outbound(key flowKey, generation uint64, now time.Time, closing bool, decide func() carrier) carrier {
	t.mu.Lock()
	defer t.mu.Unlock()
	entry := t.entries[key]
	if entry == nil || entry.generation != generation || entry.expired(key, now) {
		theirs := entry != nil && entry.theirs && !entry.expired(key, now)
		entry = &flowEntry{carrier: decide(), generation: generation, theirs: theirs}
		t.insertLocked(key, entry, now)
	}
	entry.sent = now
	entry.closing = entry.closing || closing
	return entry.carrier
}

// answers reports whether a packet of the peer belongs to a flow that this
// host opened, and notes that the peer answered.
func (t *flowTable) answers(key flowKey, generation uint64, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	entry := t.entries[key]
	if entry == nil || entry.theirs || entry.generation != generation || entry.expired(key, now) {
		return false
	}
	entry.received = now
	return true
}

// inbound notes that a rule let a packet of the peer in, on a flow that this
// host did not open. A full table takes no such notes: they must not cost this
// host flows of its own.
func (t *flowTable) inbound(key flowKey, generation uint64, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	entry := t.entries[key]
	switch {
	case entry != nil && !entry.expired(key, now):
		entry.received = now
	case len(t.entries) < maxFlows:
		t.insertLocked(key, &flowEntry{carrier: carrierDatagram, generation: generation, theirs: true, received: now}, now)
	}
}

// clear forgets everything.
func (t *flowTable) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.entries)
}

// size counts the entries.
func (t *flowTable) size() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.entries)
}

// insertLocked adds an entry. A full table first loses what has expired, and
// if that frees nothing, the entry that was silent longest.
func (t *flowTable) insertLocked(key flowKey, entry *flowEntry, now time.Time) {
	if t.entries == nil {
		t.entries = make(map[flowKey]*flowEntry)
	}
	if len(t.entries) >= maxFlows {
		t.evictLocked(now)
	}
	t.entries[key] = entry
}

func (t *flowTable) evictLocked(now time.Time) {
	var (
		oldest     flowKey
		oldestTime time.Time
	)
	for key, entry := range t.entries {
		if entry.expired(key, now) {
			delete(t.entries, key)
		} else if oldestTime.IsZero() || entry.sent.Before(oldestTime) {
			oldest, oldestTime = key, entry.sent
		}
	}
	if len(t.entries) >= maxFlows {
		delete(t.entries, oldest)
	}
}

// expired reports whether the entry's time is over.
func (f *flowEntry) expired(key flowKey, now time.Time) bool {
	idle := now.Sub(f.sent)
	if f.theirs {
		idle = min(idle, now.Sub(f.received))
	}
	switch {
	case key.proto == protoTCP && f.closing:
		return idle > tcpEntryClosed
	case key.proto == protoTCP:
		return idle > tcpEntryIdle
	case f.received.IsZero():
		return idle > pinholeOneWay
	default:
		return idle > pinholeTwoWay
	}
}
