package relay

import (
	"encoding/binary"
	"sync"

	"github.com/nodetun/nodetun/identity"
)

// Bounds of a Queue (S26: 512 packets, 1 MiB of them, and 1.25 MiB of memory in all).
const (
	maxControlHeld = 32 << 10
	maxDiscoHeld   = 144 << 10
	maxDataHeld    = 1<<20 + 256<<10 - maxControlHeld - maxDiscoHeld
	maxQueueBytes  = 1 << 20
	// maxQueueFrames counts packets of any kind.
	maxQueueFrames  = 512
	maxControlBytes = 16 << 10
	maxControl      = 256
	maxDiscoBytes   = 64 << 10
	maxDisco        = 128
	maxDataBytes    = maxQueueBytes - maxControlBytes - maxDiscoBytes
	maxData         = maxQueueFrames - maxDisco

	// mergeLimit is how long the payload of a frame grows by merging waiting
	// datagrams into it. A relay forwards whole frames only, so a long one
	// waits longer on a slow link than it saves on a fast one.
	mergeLimit = 16 << 10
)

// Queue holds the frames that wait to be written to one connection. It copies
// what it is given into large blocks, each of which one Write then takes, and
// it never blocks: when a lane is full the oldest packet of the node goes that has most in it.
//
// There are three lanes. Control frames (pings, pongs, notices) go first, then
// disco and data packets in turn, so that a flood of one does not starve the
// other.
//
// Any number of goroutines may push; one writer calls Take and Done.
type Queue struct {
	pool  *Pool
	ready chan struct{} // holds one token when there is something to take

	mu        sync.Mutex // guards the fields below
	control   lane
	disco     lane
	data      lane
	taken     *block
	takenFrom *lane
	dataNext  bool // data has its turn before disco
	block     int  // how long a block grows, in bytes
	dropped   uint64
}

// NewQueue makes an empty queue that takes its memory from pool; nil means one
// of its own.
func NewQueue(pool *Pool) *Queue {
	if pool == nil {
		pool = new(Pool)
	}
	return &Queue{
		pool:    pool,
		ready:   make(chan struct{}, 1),
		control: lane{maxFrames: maxControl, maxBytes: maxControlBytes, maxHeld: maxControlHeld, dropNew: true},
		disco:   lane{maxFrames: maxDisco, maxBytes: maxDiscoBytes, maxHeld: maxDiscoHeld, parts: make(map[identity.NodeID]part)},
		data:    lane{maxFrames: maxData, maxBytes: maxDataBytes, maxHeld: maxDataHeld, parts: make(map[identity.NodeID]part)},
		block:   firstPace,
	}
}

// SetBlock says how many bytes Take returns at most, unless one frame is longer.
// What waits already may be more.
func (q *Queue) SetBlock(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.block = n
}

// Ready returns the channel that wakes the writer when Take had found nothing.
func (q *Queue) Ready() <-chan struct{} { return q.ready }

// PushControl queues one frame in the stream form, in front of all packets. It
// reports false when too many control frames wait; then the frame is dropped.
func (q *Queue) PushControl(frame []byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	room := q.room(&q.control, identity.NodeID{}, len(frame))
	if room == nil {
		return false
	}
	copy(room, frame)
	q.wake()
	return true
}

// PushPacket queues a SendPacket or RecvPacket with a copy of payload. It
// reports false when the packet itself had to be dropped.
func (q *Queue) PushPacket(t Type, key identity.NodeID, payload []byte) bool {
	if len(payload) > MaxPayload {
		return false
	}
	n := HeaderLen + KeyLen + len(payload)
	q.mu.Lock()
	defer q.mu.Unlock()
	room := q.room(q.laneOf(payload), key, n)
	if room == nil {
		return false
	}
	putHeader(room, t, KeyLen+len(payload))
	copy(room[HeaderLen:], key[:])
	copy(room[HeaderLen+KeyLen:], payload)
	q.wake()
	return true
}

// PushDatagrams queues datagrams for dst: pkts holds them one behind the other,
// each seg bytes long, the last one shorter. They are copied into SendPacket
// frames, the frame that waits last included if it is for dst too. It reports
// false when some were dropped.
func (q *Queue) PushDatagrams(dst identity.NodeID, pkts []byte, seg int) bool {
	if len(pkts) == 0 || seg <= 0 || min(seg, len(pkts)) > MaxDatagram {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.wake()
	l := &q.data
	if len(pkts) >= len(discoMagic) && string(pkts[:len(discoMagic)]) == discoMagic {
		l = &q.disco
	}
	for len(pkts) > 0 {
		n := q.fitting(len(pkts), seg)
		part := pkts[:n]
		pkts = pkts[n:]
		size := n + datagramHeader*((n+seg-1)/seg)
		if room := q.extend(l, dst, size); room != nil {
			putBatch(room, part, seg)
			continue
		}
		room := q.room(l, dst, HeaderLen+KeyLen+size)
		if room == nil {
			return false
		}
		putHeader(room, TypeSendPacket, KeyLen+size)
		copy(room[HeaderLen:], dst[:])
		putBatch(room[HeaderLen+KeyLen:], part, seg)
	}
	return true
}

// fitting returns how many of n bytes, in segments of seg, go into one frame.
func (q *Queue) fitting(n, seg int) int {
	whole := max(1, mergeLimit/(seg+datagramHeader))
	return min(n, whole*seg)
}

// putBatch writes the segments of pkts as a batch into room, which they fill.
func putBatch(room, pkts []byte, seg int) {
	for len(pkts) > 0 {
		n := min(seg, len(pkts))
		binary.LittleEndian.PutUint16(room, uint16(n))
		copy(room[datagramHeader:], pkts[:n])
		room, pkts = room[datagramHeader+n:], pkts[n:]
	}
}

func (q *Queue) laneOf(payload []byte) *lane {
	if IsDisco(payload) {
		return &q.disco
	}
	return &q.data
}

// Take returns whole frames to write next, as many as one Write should have,
// or nil when nothing waits. They are valid until Done, which must be called
// before the next Take.
func (q *Queue) Take() []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.next()
	if l == nil {
		return nil
	}
	b := l.take()
	q.taken, q.takenFrom = b, l
	return b.buf[b.head:]
}

// next chooses the lane whose turn it is.
func (q *Queue) next() *lane {
	disco, data := len(q.disco.blocks) > 0, len(q.data.blocks) > 0
	switch {
	case len(q.control.blocks) > 0:
		return &q.control
	case disco && (!data || !q.dataNext):
		q.dataNext = true
		return &q.disco
	case data:
		q.dataNext = false
		return &q.data
	default:
		return nil
	}
}

// Done gives back what Take returned.
func (q *Queue) Done() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.taken == nil {
		return
	}
	q.takenFrom.bytes -= len(q.taken.buf) - q.taken.head
	q.takenFrom.held -= cap(q.taken.buf)
	q.pool.put(q.taken)
	q.taken = nil
}

// Clear drops everything that waits, except what is taken.
func (q *Queue) Clear() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, l := range []*lane{&q.control, &q.disco, &q.data} {
		for len(l.blocks) > 0 {
			q.dropped++
			q.release(l.dropOldest())
		}
	}
}

// Dropped returns how many frames were dropped since the queue was made.
func (q *Queue) Dropped() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped
}

// Empty reports whether nothing waits.
func (q *Queue) Empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.control.blocks)+len(q.disco.blocks)+len(q.data.blocks) == 0
}

// wake leaves a token for the writer.
func (q *Queue) wake() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// room makes place for a frame of n bytes from or for a node in a lane and returns it, or
// nil. A node that has more than its part of a lane that is almost full gets no more; that of
// a node alone is the whole lane.
func (q *Queue) room(l *lane, key identity.NodeID, n int) []byte {
	over := l.over(key, n)
	if over && l.parts[key].frames > 0 && l.crowded() {
		q.dropped++
		return nil
	}
	for !l.fits(n, q.block) {
		if q.dropped++; l.dropNew || over || len(l.blocks) == 0 {
			return nil
		}
		q.release(l.drop())
	}
	b := l.tail()
	if b == nil || len(b.buf)+n > min(cap(b.buf), q.block) {
		b = q.pool.get(l.nextBlock(n, q.block))
		l.blocks = append(l.blocks, b)
		l.held += cap(b.buf)
	}
	b.last = len(b.buf)
	b.frames++
	b.buf = b.buf[:b.last+n]
	l.count(key, 1, n)
	return b.buf[b.last:]
}

// release gives back a block of which nothing is left; nil is none.
func (q *Queue) release(b *block) {
	if b != nil {
		q.pool.put(b)
	}
}

// extend makes place for n more bytes in the last frame of the lane, if that
// is a SendPacket to dst and does not grow too long. It drops nothing.
func (q *Queue) extend(l *lane, dst identity.NodeID, n int) []byte {
	b := l.tail()
	if b == nil || b.frames == 0 || len(b.buf)+n > cap(b.buf) || l.bytes+n > l.maxBytes {
		return nil
	}
	if l.crowded() && l.over(dst, n) {
		return nil
	}
	frame := b.buf[b.last:]
	size := len(frame) - HeaderLen + n
	if Type(frame[0]) != TypeSendPacket || identity.NodeID(frame[HeaderLen:HeaderLen+KeyLen]) != dst || size-KeyLen > mergeLimit {
		return nil
	}
	putHeader(frame, TypeSendPacket, size)
	at := len(b.buf)
	b.buf = b.buf[:at+n]
	l.count(dst, 0, n)
	return b.buf[at:]
}
