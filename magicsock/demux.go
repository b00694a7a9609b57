package magicsock

import (
	"net"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/outage"
	"github.com/nodetun/nodetun/magicsock/disco"
	"github.com/nodetun/nodetun/magicsock/fec"
	"github.com/nodetun/nodetun/magicsock/nodemap"
	"github.com/nodetun/nodetun/magicsock/udpconn"
	"github.com/nodetun/nodetun/relay"
)

// class is what a packet is, by its first bytes.
type class uint8

const (
	classOther class = iota
	classQUIC
	classMarked // QUIC on the marked path
	classDisco
	classSTUN
	classCut
	classCoded // QUIC, or its parity, in the form of package fec
)

// isQUIC says that the packet is QUIC's, on either path.
func (k class) isQUIC() bool { return k == classQUIC || k == classMarked }

// isPayload says that there is QUIC in the packet.
func (k class) isPayload() bool { return k.isQUIC() || k == classCoded }

// classify follows the table in the package comment.
func classify(b []byte) class {
	switch {
	case len(b) == 0:
		return classOther
	case b[0]&0x40 != 0:
		if b[0] == 'T' && disco.Is(b) {
			return classDisco
		}
		return classQUIC
	case b[0]&0xfe == 0x30:
		return classCut
	case b[0] == fec.KindData || b[0] == fec.KindParity:
		return classCoded
	case b[0] <= 0x01 && len(b) >= 20 && string(b[4:8]) == "\x21\x12\xa4\x42":
		return classSTUN
	case outage.Marked(b):
		return classMarked
	}
	return classOther
}

// inbound is what one receive brought: one packet or several from one source,
// walked by next.
type inbound struct {
	data   []byte
	seg    int             // size of each packet but the last, unless framed
	framed bool            // a relay batch: each packet has its length before it
	from   nodemap.Addr    // where it came from
	src    identity.NodeID // the sender named by the relay; zero by UDP
	ecn    uint8
	local  udpconn.Local // where it arrived, by UDP

	held  bool      // it was sorted before and waited for a disco message
	peer  *peer     // the sender, set by sort
	addrs *addrPair // as QUIC knows it
	buf   []byte    // memory that goes back to the inbox when all is read
}

// next cuts off the next packet; nil at the end. What follows a malformed
// length is dropped.
func (in *inbound) next() []byte {
	if len(in.data) == 0 {
		return nil
	}
	if in.framed {
		packet, rest, err := relay.NextDatagram(in.data)
		if err != nil {
			packet, rest = nil, nil
		}
		in.data = rest
		return packet
	}
	n := min(in.seg, len(in.data))
	packet := in.data[:n]
	in.data = in.data[n:]
	return packet
}

// sort takes everything but QUIC out of a receive, and asks who sent the rest.
// It reports whether there is QUIC in it to be read with nextQUIC.
func (c *Conn) sort(in *inbound) bool {
	walk := *in
	bytes, packets := 0, 0
	for b := walk.next(); b != nil; b = walk.next() {
		k := classify(b)
		if !k.isPayload() || k == classCoded && !in.src.IsZero() {
			if !in.held {
				c.takeOther(k, b, in)
			}
			continue
		}
		bytes += len(b)
		packets++
	}
	if bytes == 0 {
		return false
	}
	var revived bool
	in.peer, in.addrs, revived = c.paths.received(time.Now(), in.from, in.src, bytes)
	if in.addrs == nil && in.src.IsZero() && !in.held {
		if c.disco.hold(in) {
			return false
		}
		// The message that was not there any more may have said who it is.
		in.peer, in.addrs, revived = c.paths.received(time.Now(), in.from, in.src, bytes)
	}
	if revived && c.cfg.OnRevived != nil {
		if id, ok := c.paths.nodeOf(in.addrs[0].AddrPort()); ok {
			c.cfg.OnRevived(id)
		}
	}
	if in.addrs == nil {
		c.stats.unknownSource.Add(uint64(packets))
		return false
	}
	if in.src.IsZero() {
		c.stats.recvUDP.Add(uint64(bytes))
	} else {
		c.stats.recvRelay.Add(uint64(bytes))
	}
	return true
}

// nextQUIC yields the next QUIC packet of the current receive, its mark taken off, its sender and
// its ECN field; nil at the end. What was repaired comes with what made that possible.
func (p *PacketConn) nextQUIC() (b []byte, from *net.UDPAddr, ecn uint8) {
	for {
		if b, ecn = p.repaired.take(); b == nil {
			if b = p.cur.next(); b == nil {
				return nil, nil, 0
			}
			if ecn = p.cur.ecn; classify(b) == classCoded {
				b, ecn = p.c.decode(&p.cur, b, p.repaired.put)
			}
		}
		// Never a second time through the whole table.
		switch classify(b) {
		case classQUIC:
			return b, p.cur.addrs[0], ecn
		case classMarked:
			outage.Unmark(b)
			return b, p.cur.addrs[1], ecn
		}
	}
}

// takeOther disposes of a packet that is not QUIC.
func (c *Conn) takeOther(k class, b []byte, in *inbound) {
	switch {
	case k == classDisco:
		c.disco.offer(b, in.from, in.src, in.local)
	case k == classSTUN && in.src.IsZero():
		c.stats.recvSTUN.Add(1)
		c.survey.checker.HandleSTUN(b, in.from.UDP)
	case k == classCut && in.src.IsZero():
		c.takeCut(b, in.from.UDP)
	default:
		c.stats.recvGarbage.Add(1)
	}
}
