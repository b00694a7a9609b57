package magicsock

import (
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock/nodemap"
)

// A path may become too small for the packets of a connection that runs, and
// QUIC never makes them smaller. To peers that join halves (feature cut/1) such
// a packet leaves in two: kind, id (random, u32), bytes.
const (
	cutFirst  = 0x30
	cutSecond = 0x31
	cutHeader = 5
	cutHalfLo = 16   // least and
	cutHalfHi = 1400 // most bytes in a half,
	cutWhole  = 1452 // and in both

	cutPerNode = 8   // halves that wait for the other one, of a node
	cutInAll   = 256 // and of all nodes
	cutAge     = time.Second
)

// sendCut sends packets that are larger than r.Max.
func (c *Conn) sendCut(b []byte, seg int, ecn uint8, r nodemap.Route) error {
	for len(b) > 0 {
		packet := b[:min(seg, len(b))]
		b = b[len(packet):]
		d := destination{to: r.UDP, node: r.Node, ecn: ecn, seg: len(packet)}
		switch half := (len(packet) + 1) / 2; {
		case len(packet) <= r.Max:
			if err := c.out.write(packet, d); err != nil {
				return err
			}
		case r.Cut && half+cutHeader <= r.Max && !isInitial(packet): // a new connection: the peer may be new, too
			c.stats.sentCut.Add(1)
			if err := c.sendHalves(packet, d); err != nil {
				return err
			}
		case !r.Wide.IsZero():
			if r.Relay != r.Wide { // else it has gone there already
				c.sendRelay(packet, len(packet), nodemap.Route{Node: r.Node, Relay: r.Wide})
			}
		default:
			c.stats.tooLarge.Add(1)
		}
	}
	return nil
}

// halves is memory for one half each.
var halves = sync.Pool{New: func() any { b := make([]byte, 0, cutHeader+cutHalfHi); return &b }}

func (c *Conn) sendHalves(packet []byte, d destination) error {
	buf := halves.Get().(*[]byte)
	defer halves.Put(buf)
	var id [4]byte
	rand.Read(id[:])
	half := (len(packet) + 1) / 2
	for i, part := range [][]byte{packet[:half], packet[half:]} {
		b := append((*buf)[:0], cutFirst+byte(i))
		b = append(b, id[:]...)
		b = append(b, part...)
		d.seg = len(b)
		if err := c.out.write(b, d); err != nil {
			return err
		}
	}
	return nil
}

// cutKey names a packet that was cut.
type cutKey struct {
	node identity.NodeID
	id   uint32
}

// cutHalf waits for the other one.
type cutHalf struct {
	kind byte
	at   time.Time
	data []byte
}

// joiner puts halves together. It is bounded by count and age, and a node
// displaces only halves of its own. The zero value is empty; not safe for
// concurrent use.
type joiner struct {
	waiting map[cutKey]cutHalf
}

// add takes one half and returns the whole packet when it was the second to
// come, else nil. b is not kept. Whatever is no half of a QUIC packet is
// dropped; ok tells.
func (j *joiner) add(now time.Time, node identity.NodeID, b []byte) (whole []byte, ok bool) {
	n := len(b) - cutHeader
	if n < cutHalfLo || n > cutHalfHi || b[0]&0xfe != cutFirst {
		return nil, false
	}
	key := cutKey{node, binary.BigEndian.Uint32(b[1:])}
	kind, data := b[0], b[cutHeader:]
	other, found := j.waiting[key]
	if found && now.Sub(other.at) > cutAge {
		delete(j.waiting, key)
		found = false
	}
	if !found {
		return nil, j.keep(now, key, cutHalf{kind: kind, at: now, data: append([]byte(nil), data...)})
	}
	if other.kind == kind || len(other.data)+n > cutWhole {
		return nil, false
	}
	delete(j.waiting, key)
	first, second := other.data, data
	if kind == cutFirst {
		first, second = second, first
	}
	whole = append(append(make([]byte, 0, cutWhole), first...), second...)
	if !classify(whole).isQUIC() {
		return nil, false // never a second time through this table
	}
	return whole, true
}

// keep makes room for a half: what is too old goes, then the oldest one of the
// same node.
func (j *joiner) keep(now time.Time, key cutKey, h cutHalf) bool {
	if j.waiting == nil {
		j.waiting = make(map[cutKey]cutHalf)
	}
	own, oldest := 0, cutKey{}
	for k, w := range j.waiting {
		switch {
		case now.Sub(w.at) > cutAge:
			delete(j.waiting, k)
		case k.node == key.node:
			own++
			if own == 1 || w.at.Before(j.waiting[oldest].at) {
				oldest = k
			}
		}
	}
	if own >= cutPerNode {
		delete(j.waiting, oldest)
	}
	if len(j.waiting) >= cutInAll {
		return false
	}
	j.waiting[key] = h
	return true
}

// takeCut takes a half that came by UDP. Only a node whose address is
// validated now and that may cut is heard.
func (c *Conn) takeCut(b []byte, from netip.AddrPort) {
	now := time.Now()
	node, ok := c.paths.cutter(now, from)
	if !ok {
		c.stats.recvGarbage.Add(1)
		return
	}
	whole, ok := c.pc.joiner.add(now, node, b)
	if !ok {
		c.stats.recvGarbage.Add(1)
		return
	}
	if whole == nil {
		return
	}
	in := inbound{seg: len(whole), from: nodemap.UDPAddr(from), buf: c.inbox.buffer()}
	in.data = in.buf[:copy(in.buf, whole)]
	// This is the goroutine that empties the inbox: it must not wait for room.
	select {
	case c.inbox.queue <- in:
		c.stats.recvCut.Add(1)
	default:
		c.inbox.recycle(in.buf)
	}
}
