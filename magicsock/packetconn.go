package magicsock

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"

	"github.com/nodetun/nodetun/internal/outage"
	"github.com/nodetun/nodetun/magicsock/nodemap"
	"github.com/nodetun/nodetun/magicsock/udpconn"
)

// PacketConn is the Conn as QUIC sees it: a UDP socket whose addresses are
// nodes. Besides net.PacketConn it has what quic-go wants for segmentation,
// batches and ECN (quic.OOBCapablePacketConn, ReadBatch, SetWriteBuffer).
type PacketConn struct {
	c *Conn

	readMu sync.Mutex        // one read at a time; guards the fields below
	rx     []udpconn.Message // of the socket that is read here
	rxLen  int               // number of messages in rx
	rxPos  int               // the next of them
	cur    inbound           // being handed up
	turns  int               // receives taken from the inbox in a row
	joiner joiner            // halves of packets that were cut

	repaired repairs // packets of the sender of cur that were lost on their way

	// control holds the control message for each ECN field by IP version (0:
	// IPv4), empty where the system has none.
	control [2][4][]byte

	// waiting is set while ReadBatch is, or is about to be, blocked in the
	// socket; whoever resets it must wake it.
	waiting atomic.Bool

	deadlineMu sync.Mutex // guards deadline and the socket's, which follows it
	deadline   time.Time
}

var _ net.PacketConn = (*PacketConn)(nil)

func newPacketConn(c *Conn) *PacketConn {
	p := &PacketConn{c: c, rx: newMessages(udpconn.MaxBatch)}
	for ecn := range uint8(4) {
		p.control[0][ecn] = udpconn.AppendTOS(nil, ecn, false)
		p.control[1][ecn] = udpconn.AppendTOS(nil, ecn, true)
	}
	return p
}

// inboxTurns is how many receives are taken from the inbox before the socket
// is looked at again.
const inboxTurns = 8

// ReadBatch waits for packets and fills ms from the front: the first buffer of
// each message, its N, Addr and control messages. flags are ignored.
func (p *PacketConn) ReadBatch(ms []ipv4.Message, _ int) (int, error) {
	p.readMu.Lock()
	defer p.readMu.Unlock()
	n := 0
	for n < len(ms) {
		n += p.handUp(ms[n:])
		if n == len(ms) || p.more() {
			continue
		}
		if n > 0 {
			return n, nil
		}
		if err := p.wait(); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// handUp copies packets of the current receive.
func (p *PacketConn) handUp(ms []ipv4.Message) int {
	n := 0
	control := p.controlMessages(&p.cur)
	for n < len(ms) {
		b, addr, ecn := p.nextQUIC()
		if b == nil {
			p.c.inbox.recycle(p.cur.buf)
			p.cur = inbound{}
			break
		}
		m := &ms[n]
		if len(b) > len(m.Buffers[0]) {
			p.c.stats.recvGarbage.Add(1) // larger than any that QUIC asks for
			continue
		}
		m.N = copy(m.Buffers[0], b)
		m.NN = 0
		if control != nil {
			m.NN = copy(m.OOB, control[ecn])
		}
		m.Addr = addr
		m.Flags = 0
		n++
	}
	return n
}

// controlMessages are those that tell the ECN field of what came by UDP; nil for a relay.
func (p *PacketConn) controlMessages(in *inbound) *[4][]byte {
	switch {
	case !in.src.IsZero():
		return nil
	case in.from.UDP.Addr().Is4():
		return &p.control[0]
	}
	return &p.control[1]
}

// more makes the next receive that is there the current one, without waiting.
// It returns false if there is none.
func (p *PacketConn) more() bool {
	if p.rxPos < p.rxLen {
		p.cur = fromUDP(&p.rx[p.rxPos])
		p.rxPos++
		if !p.c.sort(&p.cur) {
			p.cur = inbound{}
		}
		return true
	}
	if p.turns < inboxTurns {
		select {
		case in := <-p.c.inbox.queue:
			p.turns++
			if p.c.sort(&in) {
				p.cur = in
			} else {
				p.c.inbox.recycle(in.buf)
			}
			return true
		default:
		}
	}
	if p.turns == 0 {
		return false
	}
	p.turns = 0
	n, err := p.c.direct.TryRead(p.rx)
	p.rxLen, p.rxPos = n, 0
	if errors.Is(err, os.ErrDeadlineExceeded) {
		_ = p.woken() // a wake that came late; wait will report the caller's own
	}
	return true
}

// wait blocks until the socket or the inbox has something.
func (p *PacketConn) wait() error {
	for {
		if p.c.isClosed() {
			return net.ErrClosed
		}
		p.waiting.Store(true)
		if len(p.c.inbox.queue) > 0 {
			p.waiting.Store(false)
			return nil
		}
		n, err := p.c.direct.Read(p.rx)
		p.waiting.Store(false)
		p.rxLen, p.rxPos = n, 0
		switch {
		case err == nil:
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			if err := p.woken(); err != nil {
				return err
			}
		default:
			return net.ErrClosed
		}
	}
}

// woken finds out whether the deadline that ended a read was that of the
// caller, and puts that one in force again if not.
func (p *PacketConn) woken() error {
	p.deadlineMu.Lock()
	defer p.deadlineMu.Unlock()
	if !p.deadline.IsZero() && !time.Now().Before(p.deadline) {
		return os.ErrDeadlineExceeded
	}
	return p.c.direct.SetReadDeadline(p.deadline)
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// wake makes a blocked ReadBatch look at the inbox. A reader that is not
// blocked will look by itself before it blocks.
func (p *PacketConn) wake() {
	if p.waiting.CompareAndSwap(true, false) {
		_ = p.c.direct.SetReadDeadline(longAgo) // fails only on a closed socket
	}
}

// ReadFrom reads one packet.
func (p *PacketConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, _, _, addr, err := p.ReadMsgUDP(b, nil)
	if err != nil {
		return 0, nil, err
	}
	return n, addr, nil
}

// ReadMsgUDP reads one packet with its control messages.
func (p *PacketConn) ReadMsgUDP(b, oob []byte) (n, oobn, flags int, addr *net.UDPAddr, err error) {
	ms := [1]ipv4.Message{{Buffers: [][]byte{b}, OOB: oob}}
	if _, err := p.ReadBatch(ms[:], 0); err != nil {
		return 0, 0, 0, nil, err
	}
	return ms[0].N, ms[0].NN, 0, ms[0].Addr.(*net.UDPAddr), nil
}

// WriteTo sends one packet to a mapped address.
func (p *PacketConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	udp, ok := addr.(*net.UDPAddr)
	if !ok {
		return 0, &net.OpError{Op: "write", Net: "udp", Addr: addr, Err: syscall.EAFNOSUPPORT}
	}
	n, _, err := p.WriteMsgUDP(b, nil, udp)
	return n, err
}

// WriteMsgUDP sends one packet to a mapped address, or several of the size
// that a UDP_SEGMENT message in oob tells. b is the caller's again when it
// returns, changed if the address is that of a marked path. What cannot be sent
// counts as lost: the only error is that of a closed Conn.
func (p *PacketConn) WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error) {
	return p.write(b, oob, addr.AddrPort(), isMarked(addr))
}

// write is WriteMsgUDP on one of the two paths to a node. b is changed if marked.
func (p *PacketConn) write(b, oob []byte, to netip.AddrPort, marked bool) (n, oobn int, err error) {
	if len(b) == 0 {
		return 0, 0, nil
	}
	c := p.c
	if c.isClosed() {
		return 0, 0, net.ErrClosed
	}
	control := udpconn.ParseControl(oob)
	seg := control.Seg
	if seg == 0 || seg > len(b) {
		seg = len(b)
	}
	if marked {
		outage.Mark(b, seg)
		to = markedAddr(to)
	}
	now := time.Now()
	way := c.paths.route(now, to, b, seg, control.TOS&3)
	c.perform(way.first)
	if way.coding != nil {
		err = way.coding.send(now, b, seg, way.ecn, way.Route)
	} else {
		err = c.sendQUIC(b, seg, way.ecn, way.Route)
	}
	if err != nil {
		return 0, 0, err
	}
	return len(b), len(oob), nil
}

// sendQUIC sends a batch of packets on its route.
func (c *Conn) sendQUIC(b []byte, seg int, ecn uint8, r nodemap.Route) error {
	if r.IsZero() {
		c.stats.noRoute.Add(1)
		return nil
	}
	if r.Limit > 0 && r.Limit*seg < len(b) {
		b = b[:r.Limit*seg]
		c.stats.limited.Add(1)
	}
	if !r.Relay.IsZero() {
		c.sendRelay(b, seg, r)
	}
	if !r.UDP.IsValid() {
		return nil
	}
	if r.Max > 0 && seg > r.Max {
		return c.sendCut(b, seg, ecn, r)
	}
	return c.out.write(b, destination{to: r.UDP, node: r.Node, ecn: ecn, seg: seg})
}

func (c *Conn) sendRelay(b []byte, seg int, r nodemap.Route) {
	if c.relays.Send(r.Relay, r.Node, b, seg) {
		c.stats.sendRelay.Add(uint64(len(b)))
	} else {
		c.stats.relayDropped.Add(1)
	}
}

// LocalAddr is the bound address of the socket that is read directly.
func (p *PacketConn) LocalAddr() net.Addr {
	return net.UDPAddrFromAddrPort(p.c.direct.LocalAddr())
}

// SyscallConn is the file descriptor of that socket. Options set on it are
// already set on both.
func (p *PacketConn) SyscallConn() (syscall.RawConn, error) { return p.c.direct.SyscallConn() }

// SetReadBuffer does nothing: the buffers have their size from the start.
func (p *PacketConn) SetReadBuffer(int) error { return nil }

// SetWriteBuffer does nothing, like SetReadBuffer.
func (p *PacketConn) SetWriteBuffer(int) error { return nil }

// SetDeadline is SetReadDeadline: writes never wait for long.
func (p *PacketConn) SetDeadline(t time.Time) error { return p.SetReadDeadline(t) }

// SetReadDeadline sets when ReadBatch gives up; zero is never.
func (p *PacketConn) SetReadDeadline(t time.Time) error {
	p.deadlineMu.Lock()
	defer p.deadlineMu.Unlock()
	p.deadline = t
	return p.c.direct.SetReadDeadline(t)
}

// SetWriteDeadline does nothing: writes never wait for long.
func (p *PacketConn) SetWriteDeadline(time.Time) error { return nil }

// Close closes the whole Conn.
func (p *PacketConn) Close() error { return p.c.Close() }
