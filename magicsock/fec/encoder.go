package fec

import (
	"encoding/binary"
	"math/rand/v2"
	"time"
)

const (
	// leastWait and mostWait are how long a block waits for its next packets: half of the
	// round trip within these bounds. QUIC takes a packet for lost after 9/8 to two round trips.
	leastWait = 5 * time.Millisecond
	mostWait  = 20 * time.Millisecond
)

// Encoder makes the packets of one path. Make one with [NewEncoder].
type Encoder struct {
	key   Key
	epoch time.Time
	next  uint32 // number of the next packet
	rate  int    // parity packets of a full block, for the blocks to come
	wait  time.Duration

	// The block that is being filled.
	first uint32
	count int // packets in it; 0: none began
	rows  int // its parity packets if it becomes full
	size  int // of its longest unit
	began time.Time
	sums  [MaxParity][]byte // rows, of maxUnit bytes, zero behind size

	packet []byte // scratch of Parity
}

// NewEncoder makes one whose times count from epoch.
func NewEncoder(key Key, epoch time.Time) *Encoder {
	return &Encoder{key: key, epoch: epoch, next: rand.Uint32(), wait: leastWait}
}

// Restart begins anew with other numbers, for another path.
func (e *Encoder) Restart() {
	e.next = rand.Uint32()
	for i := range e.rows {
		clear(e.sums[i][:min(e.size, len(e.sums[i]))])
	}
	e.count, e.rows, e.size = 0, 0, 0
}

// SetParity says how many parity packets follow each full block that begins from now on. Behind
// a shorter one go as many as protect it as well.
func (e *Encoder) SetParity(m int) { e.rate = min(max(m, 0), MaxParity) }

// SetLatency says how long the round trip of the path is.
func (e *Encoder) SetLatency(d time.Duration) { e.wait = min(max(d/2, leastWait), mostWait) }

// Append appends the data packet that carries a QUIC packet with that ECN field. want is how
// many parity packets the other side is asked for. A QUIC packet that is too long is not taken:
// dst is returned as it was.
func (e *Encoder) Append(dst []byte, now time.Time, quic []byte, ecn, want uint8) []byte {
	if len(quic) == 0 || len(quic) > MaxPacket {
		return dst
	}
	at := len(dst)
	dst = append(dst, KindData)
	dst = binary.BigEndian.AppendUint32(dst, e.next)
	dst = binary.BigEndian.AppendUint16(dst, uint16(ticksOf(now.Sub(e.epoch))))
	dst = append(dst, want, 0, 0, 0, 0)
	dst = binary.BigEndian.AppendUint16(dst, uint16(ecn&3)<<14|uint16(len(quic)))
	dst = append(dst, quic...)
	e.key.seal(dst[at:])
	e.sum(now, unit(dst[at:]))
	e.next++
	return dst
}

// sum takes a unit into the sums of the block.
func (e *Encoder) sum(now time.Time, u []byte) {
	if e.count == 0 {
		e.first, e.rows, e.began = e.next, e.rate, now
	}
	index := e.count
	e.count++
	if e.rows == 0 {
		return
	}
	e.size = max(e.size, len(u))
	for i := range e.rows {
		if e.sums[i] == nil {
			e.sums[i] = make([]byte, maxUnit)
		}
		add(e.sums[i], u, i, index)
	}
}

// Full says that the block has all its packets; what Parity returns leaves now.
func (e *Encoder) Full() bool { return e.count == BlockSize }

// Due returns when the parity of a block that is not full is to leave, zero for never.
func (e *Encoder) Due() time.Time {
	if e.count == 0 || e.rows == 0 {
		return time.Time{}
	}
	return e.began.Add(e.wait)
}

// Parity ends the block, and calls f with each of its parity packets, which are valid until it
// returns.
func (e *Encoder) Parity(f func(packet []byte)) {
	for i := range fewer(e.rows, e.count) {
		packet := append(e.packet[:0], KindParity)
		packet = binary.BigEndian.AppendUint32(packet, e.first)
		packet = append(packet, byte(e.count), byte(i), 0, 0, 0, 0, 0)
		packet = append(packet, e.sums[i][:e.size]...)
		e.key.seal(packet)
		f(packet)
		e.packet = packet
	}
	for i := range e.rows {
		clear(e.sums[i][:e.size])
	}
	e.count, e.rows, e.size = 0, 0, 0
}
