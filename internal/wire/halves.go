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
)

// Split cuts a datagram of kind 0x00 to 0x02 into two of at most limit bytes.
// The error says that two are not enough.
func Split(b []byte, id uint16, limit int) (first, second []byte, err error) {
	room := limit - halfHeader
	if room <= 0 || len(b) > 2*room || len(b) > 0xffff || len(b) < 2 {
		return nil, nil, ErrDatagram
	}
	cut := min(room, len(b)-1)
	return appendHalf(KindFirstHalf, id, len(b), b[:cut]), appendHalf(KindSecondHalf, id, len(b), b[cut:]), nil
}

func appendHalf(kind byte, id uint16, total int, part []byte) []byte {
	b := make([]byte, 0, halfHeader+len(part))
	b = append(b, kind)
	b = binary.BigEndian.AppendUint16(b, id)
	b = binary.BigEndian.AppendUint16(b, uint16(total))
	return append(b, part...)
}

// Joiner puts the halves of datagrams together, those of one connection. It
// keeps at most 64 and 256 KiB for 2 s, and drops the oldest. The zero value
// is ready for use; it has one user at a time.
type Joiner struct {
	pending []half // oldest first
	bytes   int
}

// half is a half that waits for the other.
type half struct {
	id     uint16
	second bool
	total  int
	part   []byte
	came   time.Time
}

// Add takes a half and returns the whole datagram if the other is there, else
// nil. Halves that do not fit together are an error, and both are dropped; so
// is a whole of any kind but 0x00 to 0x02. b is copied.
func (j *Joiner) Add(now time.Time, b []byte) ([]byte, error) {
	if len(b) <= halfHeader || b[0] != KindFirstHalf && b[0] != KindSecondHalf {
		return nil, ErrDatagram
	}
	h := half{
		id: binary.BigEndian.Uint16(b[1:]), second: b[0] == KindSecondHalf,
		total: int(binary.BigEndian.Uint16(b[3:])), part: b[halfHeader:], came: now,
	}
	if len(h.part) >= h.total {
		return nil, ErrDatagram
	}
	j.expire(now)
	at := slices.IndexFunc(j.pending, func(other half) bool { return other.id == h.id })
	if at < 0 {
		j.keep(h)
		return nil, nil
	}
	other := j.pending[at]
	j.remove(at)
	if other.second == h.second || other.total != h.total || len(other.part)+len(h.part) != h.total {
		return nil, ErrDatagram
	}
	first, second := other.part, h.part
	if other.second {
		first, second = h.part, other.part
	}
	if first[0] > KindWhole {
		return nil, ErrDatagram
	}
	return slices.Concat(first, second), nil
}

// keep files a half, at the cost of the oldest if need be.
func (j *Joiner) keep(h half) {
	h.part = slices.Clone(h.part)
	j.pending = append(j.pending, h)
	j.bytes += len(h.part)
	for len(j.pending) > maxPending || j.bytes > maxPendingBytes {
		j.remove(0)
	}
}

// expire drops what came too long ago.
func (j *Joiner) expire(now time.Time) {
	for len(j.pending) > 0 && now.Sub(j.pending[0].came) > pendingLife {
		j.remove(0)
	}
}

func (j *Joiner) remove(at int) {
	j.bytes -= len(j.pending[at].part)
	j.pending = slices.Delete(j.pending, at, at+1)
}
