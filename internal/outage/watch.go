package outage

import "time"

const (
	// Silence of a node makes an outage. What was sent before its end is held for as
	// long: two connections may share a node, and what one of them does then is not
	// to displace the probe that the other waits on.
	Silence = time.Second

	// unanswered is how long a node must have left something unanswered for its path to
	// be measured anew. What is sent before it was quiet for a moment counts for
	// nothing: it may be an answer.
	unanswered = 3 * time.Second

	// Only what may be part of an outage is kept, so that bulk costs nothing:
	// all small batches, which probes are, and every batch to a node that has
	// been quiet for a moment.
	smallBatch = 2
	quiet      = 200 * time.Millisecond
)

// Watch is what is known of the silence of one node. The zero value has heard nothing.
type Watch struct {
	heard time.Time // when a packet of it came
	asked time.Time // when something was sent first that it has not answered; or zero
	turn  int       // of its two addresses, the one in force

	recent ring
	// held is what was recent when silence ended, at heldAt: answers to what comes
	// then would displace it before it is sent again.
	held   ring
	heldAt time.Time
}

// Sent notes a batch of packets of seg bytes each, the last perhaps shorter.
func (w *Watch) Sent(now time.Time, b []byte, seg int) {
	calm := now.Sub(w.heard) > quiet
	if calm && w.asked.IsZero() {
		w.asked = now
	}
	if calm || len(b) <= smallBatch*seg {
		w.recent.add(b, seg)
	}
}

// Heard notes that a packet came. turn is 0 or 1 and changes with each outage; over
// says that one has ended just now.
func (w *Watch) Heard(now time.Time) (turn int, over bool) {
	if now.Sub(w.heard) >= Silence {
		w.held, w.recent, w.heldAt = w.recent, ring{}, now
	}
	if over = !w.asked.IsZero() && now.Sub(w.asked) >= unanswered; over {
		w.turn = 1 - w.turn
	}
	w.heard, w.asked = now, time.Time{}
	return w.turn, over
}

// Turn changes the turn without an outage.
func (w *Watch) Turn() { w.turn = 1 - w.turn }

// Missed copies the packets that the node may have missed, oldest first.
func (w *Watch) Missed(now time.Time) [][]byte {
	held := w.held
	w.held = ring{}
	if now.Sub(w.heldAt) >= Silence {
		return w.recent.packets()
	}
	return append(held.packets(), w.recent.packets()...)
}

const (
	ringPackets = 8
	ringSize    = 1536 // of one packet; 8 of them are 12 KiB
)

// ring holds the last packets to one node. The zero value is empty.
type ring struct {
	slots [ringPackets][]byte
	next  int // the oldest
}

// add keeps the last packets of a batch. The bytes are copied.
func (r *ring) add(b []byte, seg int) {
	if skip := (len(b)+seg-1)/seg - ringPackets; skip > 0 {
		b = b[skip*seg:]
	}
	for len(b) > 0 {
		n := min(seg, len(b))
		if n <= ringSize {
			r.slots[r.next] = append(r.slots[r.next][:0], b[:n]...)
			r.next = (r.next + 1) % ringPackets
		}
		b = b[n:]
	}
}

// packets copies the ring, oldest first.
func (r *ring) packets() [][]byte {
	var list [][]byte
	for i := range ringPackets {
		if p := r.slots[(r.next+i)%ringPackets]; len(p) > 0 {
			list = append(list, append([]byte(nil), p...))
		}
	}
	return list
}
