package fec

import (
	"time"
)

const (
	ringSize  = 1024 // packets that are remembered: 1.5 MB while repairs are wanted
	maxBlocks = 16   // blocks that miss something: 0.4 MB at most
	// strayLimit is how many packets in a row have to agree on numbers far from those before.
	strayLimit = 3
)

// Decoder takes the packets of one path. Make one with [NewDecoder].
type Decoder struct {
	key   Key
	epoch time.Time

	begun   bool
	highest uint32  // the largest number that arrived
	strays  int     // packets in a row that were far from it
	stray   uint32  // the last of them
	ring    []slot  // by number; nil while no repair is wanted
	blocks  []block // those that miss something; nil with the ring
	oldest  int     // where the next block goes
	spare   []byte

	stats Stats
}

// Stats counts packets since the start.
type Stats struct {
	Data, Parity    uint64 // whose tag was right
	Repaired        uint64 // put together
	WrongTag        uint64
	Malformed       uint64 // with a right tag, or put together to something that is no packet
	Useless, Missed uint64 // parity that nothing was missing for, blocks that missed too much
}

// slot is a packet that arrived, or was put together.
type slot struct {
	number uint32
	used   bool
	unit   []byte // of maxUnit bytes at the most
}

// block is one that misses something, and what came of its parity.
type block struct {
	first uint32
	count int // 0: none
	size  int
	rows  [MaxParity][]byte
	have  int // rows
}

// NewDecoder makes one that checks tags by key, and whose times count from epoch.
func NewDecoder(key Key, epoch time.Time) *Decoder { return &Decoder{key: key, epoch: epoch} }

// Remember says whether packets are kept for repairs. It is to be called when parity is asked
// for, and when it is not any more.
func (d *Decoder) Remember(on bool) {
	switch {
	case !on:
		d.ring, d.blocks, d.spare = nil, nil, nil
	case d.ring == nil:
		d.ring, d.blocks = make([]slot, ringSize), make([]block, maxBlocks)
	}
}

// Stats returns what was counted.
func (d *Decoder) Stats() Stats { return d.stats }

// Arrival is what a data packet tells.
type Arrival struct {
	// Packet is the QUIC packet, a part of what was given, with its ECN field.
	Packet []byte
	ECN    uint8
	// Number is that of the packet, and Sent when it left there, in some unit of 100 µs.
	Number uint32
	Sent   uint16
	// Want is how many parity packets the other side asks for.
	Want uint8
	// Stray says that the number is far from those before: it tells nothing of loss.
	Stray bool
	// Newest says that no packet with this number or a larger one had come before.
	Newest bool
}

// Data takes a data packet. What it returns goes to QUIC in any case. Repaired is called with
// QUIC packets that this one made it possible to put together, valid until it returns.
func (d *Decoder) Data(b []byte, repaired func(packet []byte, ecn uint8)) (Arrival, error) {
	p, err := d.openData(b)
	if err != nil {
		return Arrival{}, err
	}
	d.stats.Data++
	newest := !d.begun || int32(p.number-d.highest) > 0
	near := d.near(p.number)
	if near && d.ring != nil {
		d.keep(p.number, unit(b))
		if blk := d.blockOf(p.number); blk != nil {
			d.repair(blk, repaired)
		}
	}
	return Arrival{Packet: p.packet, ECN: p.ecn, Number: p.number, Sent: uint16(p.sent), Want: p.want, Stray: !near, Newest: near && newest}, nil
}

func (d *Decoder) openData(b []byte) (data, error) {
	if err := d.key.open(b); err != nil {
		d.stats.WrongTag++
		return data{}, err
	}
	p, err := parseData(b)
	if err != nil {
		d.stats.Malformed++
	}
	return p, err
}

// Parity takes a parity packet, and calls repaired with the QUIC packets that it made possible to
// put together, valid until that returns.
func (d *Decoder) Parity(b []byte, repaired func(packet []byte, ecn uint8)) error {
	if err := d.key.open(b); err != nil {
		d.stats.WrongTag++
		return err
	}
	p, err := parseParity(b)
	if err != nil {
		d.stats.Malformed++
		return err
	}
	d.stats.Parity++
	last := p.first + uint32(p.count-1)
	if d.ring == nil || !d.near(last) || d.missing(p.first, p.count) == 0 {
		d.stats.Useless++
		return nil
	}
	blk := d.blockAt(p)
	if blk.rows[p.index] == nil {
		blk.rows[p.index] = append([]byte(nil), p.row...)
		blk.have++
	}
	d.repair(blk, repaired)
	return nil
}

// near takes in a number, and reports whether it belongs to those that arrive now. A sender that
// begins anew with other numbers is believed when three in a row agree.
func (d *Decoder) near(number uint32) bool {
	ahead := int32(number - d.highest)
	switch {
	case !d.begun:
		d.begun, d.highest = true, number
	case ahead >= ringSize/2 || ahead <= -ringSize/2:
		if agree := int32(number - d.stray); d.strays > 0 && (agree >= ringSize/2 || agree <= -ringSize/2) {
			d.strays = 0
		}
		d.stray = number
		if d.strays++; d.strays < strayLimit {
			return false
		}
		d.highest = number
		clear(d.ring)
		clear(d.blocks)
	case ahead > 0:
		d.highest = number
	}
	d.strays = 0
	return true
}

// keep remembers a unit.
func (d *Decoder) keep(number uint32, u []byte) {
	s := &d.ring[number%ringSize]
	if s.used && s.number == number {
		return
	}
	s.number, s.used, s.unit = number, true, append(s.unit[:0], u...)
}

// get returns a unit that is remembered, nil for none.
func (d *Decoder) get(number uint32) []byte {
	if s := &d.ring[number%ringSize]; s.used && s.number == number {
		return s.unit
	}
	return nil
}

// missing counts what of a block has not arrived.
func (d *Decoder) missing(first uint32, count int) (n int) {
	for i := range uint32(count) {
		if d.get(first+i) == nil {
			n++
		}
	}
	return n
}

// blockOf returns the block that a packet belongs to, if that misses something.
func (d *Decoder) blockOf(number uint32) *block {
	for i := range d.blocks {
		if b := &d.blocks[i]; b.count > 0 && number-b.first < uint32(b.count) {
			return b
		}
	}
	return nil
}

// blockAt returns the block of a parity packet; one that is new takes the place of the oldest.
// What another packet says of the same block differently makes it anew.
func (d *Decoder) blockAt(p parity) *block {
	for i := range d.blocks {
		if b := &d.blocks[i]; b.count > 0 && b.first == p.first {
			if b.count != p.count || b.size != len(p.row) {
				*b = block{first: p.first, count: p.count, size: len(p.row)}
			}
			return b
		}
	}
	b := &d.blocks[d.oldest]
	d.oldest = (d.oldest + 1) % maxBlocks
	if b.count > 0 {
		d.stats.Missed++
	}
	*b = block{first: p.first, count: p.count, size: len(p.row)}
	return b
}

// repair puts together what a block misses, if enough of it is there.
func (d *Decoder) repair(b *block, repaired func([]byte, uint8)) {
	lost := d.missing(b.first, b.count)
	if lost > b.have {
		return
	}
	if lost > 0 {
		d.solve(b, repaired)
	}
	*b = block{}
}

// solve computes what is lost, of which there is as much as parity at the most.
func (d *Decoder) solve(b *block, repaired func([]byte, uint8)) {
	const room = MaxParity // before each row, as solve wants it
	if d.spare == nil {
		d.spare = make([]byte, (MaxParity+1)*(room+maxUnit))
	}
	var lost []int
	for j := range b.count {
		if d.get(b.first+uint32(j)) == nil {
			lost = append(lost, j)
		}
	}
	place := func(n int) []byte { return d.spare[n*(room+maxUnit):][:len(lost)+b.size] }
	var rows [][]byte
	var index []int
	for i, parity := range b.rows {
		if parity == nil || len(rows) == len(lost) {
			continue
		}
		row := place(len(rows))
		copy(row[len(lost):], parity)
		rows, index = append(rows, row), append(index, i)
	}
	for j := range b.count {
		u := d.get(b.first + uint32(j))
		if len(u) > b.size { // the parity is of something else
			d.stats.Malformed++
			return
		}
		for n, row := range rows {
			add(row[len(lost):], u, index[n], j)
		}
	}
	solve(rows, index, lost, place(MaxParity))
	for n, j := range lost {
		u := rows[n][len(lost):]
		packet, ecn, err := parseUnit(u)
		if err != nil {
			d.stats.Malformed++
			continue
		}
		d.keep(b.first+uint32(j), u[:unitHeader+len(packet)])
		d.stats.Repaired++
		repaired(packet, ecn)
	}
}
