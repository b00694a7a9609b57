package wire

import (
	"encoding/binary"
	"slices"
	"time"
)

// halfHeader is kind, id and total length.
const halfHeader = 5

// Limits of a Joiner.
const (
	maxPending      = 64
	maxPendingBytes = 256 << 10
	pendingLife     = 2 * time.Second
	// spareBytes is the largest buffer that is kept for the next half.
	spareBytes = maxPendingBytes / maxPending
)

// Split cuts a datagram of kind 0x00 to 0x02 into two of at most limit bytes,
// about equally large, to be sent in this order. id tells those apart that are
// on the way: counting up will do. The error says that two are not enough. The
// halves are new memory.
func Split(b []byte, id uint16, limit int) (first, second []byte, err error) {
	return appendSplit(nil, b, id, limit)
}

// appendSplit is Split with the halves appended to dst one after the other;
// they share its memory and need len(b)+10 bytes of it. b must not overlap dst.
func appendSplit(dst, b []byte, id uint16, limit int) (first, second []byte, err error) {
	cut := (len(b) + 1) / 2
	if len(b) < 2 || len(b) > 0xffff || b[0] > KindWhole || cut+halfHeader > limit {
		return nil, nil, ErrDatagram
	}
	start := len(dst)
	dst = slices.Grow(dst, len(b)+2*halfHeader)
	dst = appendHalf(dst, KindFirstHalf, id, len(b), b[:cut])
	middle := len(dst)
	dst = appendHalf(dst, KindSecondHalf, id, len(b), b[cut:])
	return dst[start:middle:middle], dst[middle:], nil
}

func appendHalf(dst []byte, kind byte, id uint16, total int, part []byte) []byte {
	dst = append(dst, kind)
	dst = binary.BigEndian.AppendUint16(dst, id)
	dst = binary.BigEndian.AppendUint16(dst, uint16(total))
	return append(dst, part...)
}

// Joiner puts the halves of datagrams together, those of one connection. It
// keeps at most 64 and 256 KiB for 2 s, and drops the oldest. The zero value
// is ready for use; it has one user at a time.
type Joiner struct {
	pending []half   // oldest first
	bytes   int      // of pending
	spare   [][]byte // buffers of halves that are gone
	whole   []byte   // what Add returned last
}

// half is a half that waits for the other.
type half struct {
	id     uint16
	second bool
	total  int
	part   []byte
	came   time.Time
}

// Add takes a half and returns the whole datagram if the other is there, valid
// until the next call, else nil. Halves that do not fit together are an error,
// and both are dropped; so is a whole of any kind but 0x00 to 0x02. b is copied.
func (j *Joiner) Add(now time.Time, b []byte) ([]byte, error) {
	j.expire(now)
	h, ok := parseHalf(b)
	if !ok {
		return nil, ErrDatagram
	}
	at := slices.IndexFunc(j.pending, func(other half) bool { return other.id == h.id })
	if at < 0 {
		h.came = now
		j.keep(h)
		return nil, nil
	}
	defer j.remove(at)
	other := j.pending[at]
	if other.second == h.second || other.total != h.total || len(other.part)+len(h.part) != h.total {
		return nil, ErrDatagram
	}
	first, second := other.part, h.part
	if other.second {
		first, second = h.part, other.part
	}
	j.whole = append(append(j.whole[:0], first...), second...)
	return j.whole, nil
}

// parseHalf reads a half; its part is memory of b.
func parseHalf(b []byte) (half, bool) {
	if len(b) <= halfHeader || b[0] != KindFirstHalf && b[0] != KindSecondHalf {
		return half{}, false
	}
	h := half{
		id: binary.BigEndian.Uint16(b[1:]), second: b[0] == KindSecondHalf,
		total: int(binary.BigEndian.Uint16(b[3:])), part: b[halfHeader:],
	}
	if len(h.part) >= h.total || !h.second && h.part[0] > KindWhole {
		return half{}, false
	}
	return h, true
}

// keep files a half, at the cost of the oldest if need be.
func (j *Joiner) keep(h half) {
	for len(j.pending) == maxPending || j.bytes+len(h.part) > maxPendingBytes {
		j.remove(0) // there is one: a half alone is smaller than the limit
	}
	var buf []byte
	if n := len(j.spare); n > 0 {
		buf, j.spare = j.spare[n-1], j.spare[:n-1]
	}
	h.part = append(buf[:0], h.part...)
	j.pending = append(j.pending, h)
	j.bytes += len(h.part)
}

// expire drops what came too long ago.
func (j *Joiner) expire(now time.Time) {
	for len(j.pending) > 0 && now.Sub(j.pending[0].came) > pendingLife {
		j.remove(0)
	}
}

func (j *Joiner) remove(at int) {
	part := j.pending[at].part
	j.bytes -= len(part)
	if cap(part) <= spareBytes {
		j.spare = append(j.spare, part)
	}
	j.pending = slices.Delete(j.pending, at, at+1)
}
