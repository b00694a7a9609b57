package magicsock

import "time"

// QUIC's own probe timer may have backed off to a minute when a path comes
// back after an outage. The last packets of each node are kept and sent again
// then: QUIC drops what it had already, and the answer to what it had not
// resets the timer.
const (
	resendPackets = 8
	resendSize    = 1536 // of one packet; 8 of them are 12 KiB

	// Only what may be part of an outage is kept, so that bulk costs nothing:
	// all small batches, which probes are, and every batch to a node that has
	// been quiet for a moment.
	smallBatch = 2
	quiet      = 200 * time.Millisecond
	// silence of a node makes an outage. What was sent before its end is held for as
	// long: two connections may share a node, and what one of them does then is not
	// to displace the probe that the other waits on.
	silence = time.Second
	// outage is how long a node must have left something unanswered. What is sent
	// before it was quiet for a moment counts for nothing: it may be an answer.
	outage = 3 * time.Second
)

// resendRing holds the last packets to one node. The zero value is empty.
type resendRing struct {
	slots [resendPackets][]byte
	next  int // the oldest
}

// add keeps the last packets of a batch. The bytes are copied.
func (r *resendRing) add(b []byte, seg int) {
	if skip := (len(b)+seg-1)/seg - resendPackets; skip > 0 {
		b = b[skip*seg:]
	}
	for len(b) > 0 {
		n := min(seg, len(b))
		if n <= resendSize {
			r.slots[r.next] = append(r.slots[r.next][:0], b[:n]...)
			r.next = (r.next + 1) % resendPackets
		}
		b = b[n:]
	}
}

// packets copies the ring, oldest first.
func (r *resendRing) packets() [][]byte {
	var list [][]byte
	for i := range resendPackets {
		if p := r.slots[(r.next+i)%resendPackets]; len(p) > 0 {
			list = append(list, append([]byte(nil), p...))
		}
	}
	return list
}
