package fec

import (
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/klauspost/reedsolomon"
)

const (
	// blockTime is how long a block waits for its next packets.
	blockTime = 5 * time.Millisecond
	// shortParity is how many more parity packets than others a short block has at the most.
	shortParity = 3
)

// coder returns what codes blocks with so many parity packets. The rows of one are the first
// rows of all that have more.
var coder = sync.OnceValue(func() (all [MaxParity + 1]reedsolomon.Encoder) {
	for m := 1; m <= MaxParity; m++ {
		// 8 and 20 are within its bounds; it has no state, and so needs no goroutines.
		c, err := reedsolomon.New(BlockSize, m, reedsolomon.WithMaxGoroutines(1))
		if err != nil {
			panic(err)
		}
		all[m] = c
	}
	return all
})

// Encoder makes the packets of one path. Make one with [NewEncoder].
type Encoder struct {
	key   Key
	epoch time.Time
	next  uint32 // number of the next packet
	rate  int    // parity packets of the blocks to come

	// The block that is being filled.
	first uint32
	count int // packets in it; 0: none began
	rows  int // its parity packets
	size  int // of its longest unit
	began time.Time
	sums  [MaxParity][]byte // rows, of maxUnit bytes, zero behind size

	view   [MaxParity][]byte // scratch of add
	packet []byte            // scratch of Parity
}

// NewEncoder makes one whose times count from epoch.
func NewEncoder(key Key, epoch time.Time) *Encoder {
	return &Encoder{key: key, epoch: epoch, next: rand.Uint32()}
}

// Restart begins anew with other numbers, for another path.
func (e *Encoder) Restart() {
	e.next = rand.Uint32()
	for i := range e.rows {
		clear(e.sums[i][:min(e.size, len(e.sums[i]))])
	}
	e.count, e.rows, e.size = 0, 0, 0
}

// SetParity says how many parity packets follow each block that begins from now on.
func (e *Encoder) SetParity(m int) { e.rate = min(max(m, 0), MaxParity) }

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
	e.add(now, unit(dst[at:]))
	e.next++
	return dst
}

// add takes a unit into the sums of the block.
func (e *Encoder) add(now time.Time, u []byte) {
	if e.count == 0 {
		e.first, e.rows, e.began = e.next, e.rate, now
	}
	index := e.count
	e.count++
	if e.rows == 0 {
		return
	}
	e.size = max(e.size, len(u))
	sums := e.view[:e.rows]
	for i := range sums {
		if e.sums[i] == nil {
			e.sums[i] = make([]byte, maxUnit)
		}
		sums[i] = e.sums[i][:len(u)]
	}
	// Lengths and indexes are right: there is no error.
	_ = coder()[e.rows].EncodeIdx(u, index, sums)
}

// Full says that the block has all its packets; what Parity returns leaves now.
func (e *Encoder) Full() bool { return e.count == BlockSize }

// Due returns when the parity of a block that is not full is to leave, zero for never.
func (e *Encoder) Due() time.Time {
	if e.count == 0 || e.rows == 0 {
		return time.Time{}
	}
	return e.began.Add(blockTime)
}

// Parity ends the block, and calls f with each of its parity packets, which are valid until it
// returns.
func (e *Encoder) Parity(f func(packet []byte)) {
	// A packet alone needs no more than four others that are the same.
	for i := range min(e.rows, e.count+shortParity) {
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
