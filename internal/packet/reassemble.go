package packet

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"time"
)

// Limits of a Reassembler (S14). A piece counts as more bytes than it has, for
// what it costs to keep; a packet of 64 KiB in pieces for a path of 576 bytes
// has 119.
const (
	maxPending      = 64
	maxPendingBytes = 1 << 20
	maxPieces       = 256
	pieceCost       = 64
	pendingLife     = 5 * time.Second
	maxWhole        = 65535
)

// ErrFragment says that a fragment, and with it its packet, was given up:
// overlapping, contradictory, or more than the limits allow.
var ErrFragment = errors.New("packet: fragment refused")

// Reassembler puts fragments together, so that a packet can be judged whole.
// It is bounded in number, bytes and time; the oldest packet goes first. The
// zero value is ready for use; it has one user at a time.
type Reassembler struct {
	pending map[fragmentKey]*partial
	bytes   int    // cost of all pending
	begun   uint64 // packets begun, the number of the newest
}

type fragmentKey struct {
	src, dst netip.Addr
	id       uint32
	proto    uint8
}

// partial is a packet of which fragments are missing.
type partial struct {
	began  time.Time
	number uint64 // orders packets that began at one time
	header []byte // of the first fragment, up to its data
	nextAt int    // IPv6: where the number of the fragment header stands
	pieces []piece
	total  int // length of the data, -1 until the last fragment came
	held   int // bytes of data in pieces
}

// cost is what the packet counts in the limit of bytes.
func (p *partial) cost() int { return p.held + len(p.pieces)*pieceCost }

type piece struct {
	offset int
	data   []byte
}

// Add takes a fragment, of which i is Parse's Info, and returns the whole
// packet if it was the last that missed; else nil. The fragment is copied; a
// packet that is no fragment comes back as it is. An overlap drops everything
// of the packet (RFC 5722). The whole packet is new to everybody: it is to be
// parsed and judged like any other.
func (r *Reassembler) Add(now time.Time, ip []byte, i Info) ([]byte, error) {
	r.expire(now)
	if !i.Fragment {
		return ip, nil
	}
	key, data := keyOf(i), ip[i.dataAt:]
	if i.MoreFragments && (len(data)%8 != 0 || len(data) == 0) || i.FragOffset+len(data) > maxWhole {
		r.drop(key)
		return nil, ErrFragment
	}
	p := r.pending[key]
	if p == nil {
		p = r.start(key, now)
	}
	if !p.add(i, ip[:i.dataAt], data) {
		r.drop(key)
		return nil, ErrFragment
	}
	r.bytes += len(data) + pieceCost
	for r.bytes > maxPendingBytes {
		r.dropOldest()
	}
	if r.pending[key] != p {
		return nil, ErrFragment
	}
	if !p.complete() {
		return nil, nil
	}
	whole := p.join(i.Version)
	r.drop(key)
	if whole == nil {
		return nil, ErrFragment
	}
	return whole, nil
}

// keyOf says which packet a fragment belongs to. IPv6 does not ask for the
// protocol: fragments may differ in it, and the first one's counts (RFC 8200
// 4.5).
func keyOf(i Info) fragmentKey {
	key := fragmentKey{src: i.Src, dst: i.Dst, id: i.FragID}
	if i.Version == 4 {
		key.proto = i.Proto
	}
	return key
}

func (r *Reassembler) start(key fragmentKey, now time.Time) *partial {
	if r.pending == nil {
		r.pending = make(map[fragmentKey]*partial)
	}
	if len(r.pending) >= maxPending {
		r.dropOldest()
	}
	r.begun++
	p := &partial{began: now, number: r.begun, total: -1}
	r.pending[key] = p
	return p
}

func (r *Reassembler) expire(now time.Time) {
	for key, p := range r.pending {
		if now.Sub(p.began) > pendingLife {
			r.drop(key)
		}
	}
}

func (r *Reassembler) dropOldest() {
	var (
		oldest fragmentKey
		found  *partial
	)
	for key, p := range r.pending {
		if found == nil || p.number < found.number {
			oldest, found = key, p
		}
	}
	r.drop(oldest)
}

func (r *Reassembler) drop(key fragmentKey) {
	if p := r.pending[key]; p != nil {
		r.bytes -= p.cost()
		delete(r.pending, key)
	}
}

// add files a fragment; false when it contradicts what is there.
func (p *partial) add(i Info, header, data []byte) bool {
	at, _ := slices.BinarySearchFunc(p.pieces, i.FragOffset, func(have piece, offset int) int { return have.offset - offset })
	end := i.FragOffset + len(data)
	switch {
	case len(p.pieces) >= maxPieces:
		return false
	case at < len(p.pieces) && p.pieces[at].offset < end,
		at < len(p.pieces) && p.pieces[at].offset == i.FragOffset,
		at > 0 && p.pieces[at-1].offset+len(p.pieces[at-1].data) > i.FragOffset:
		return false // overlap
	case !i.MoreFragments && p.total >= 0,
		p.total >= 0 && end > p.total,
		!i.MoreFragments && len(p.pieces) > at:
		return false // two ends, or something after the end
	}
	if !i.MoreFragments {
		p.total = end
	}
	if i.FragOffset == 0 {
		p.header, p.nextAt = slices.Clone(header), i.nextAt
	}
	p.pieces = slices.Insert(p.pieces, at, piece{i.FragOffset, slices.Clone(data)})
	p.held += len(data)
	return true
}

// complete reports whether nothing is missing: as pieces never overlap, the
// bytes held say so.
func (p *partial) complete() bool { return p.total >= 0 && p.header != nil && p.held == p.total }

// join builds the whole packet; nil when it is too long for its length field.
func (p *partial) join(version uint8) []byte {
	header := p.header
	if version == 6 { // without the fragment header
		header = header[:len(header)-8]
		header[p.nextAt] = p.header[len(header)]
	}
	length := len(header) + p.total
	if length > maxWhole {
		return nil
	}
	whole := make([]byte, 0, length)
	whole = append(whole, header...)
	for _, piece := range p.pieces {
		whole = append(whole, piece.data...)
	}
	if version == 6 {
		binary.BigEndian.PutUint16(whole[4:], uint16(length-ipv6Len))
		return whole
	}
	binary.BigEndian.PutUint16(whole[2:], uint16(length))
	binary.BigEndian.PutUint16(whole[6:], 0)
	binary.BigEndian.PutUint16(whole[10:], 0)
	binary.BigEndian.PutUint16(whole[10:], Checksum(whole[:len(header)]))
	return whole
}
