package magicsock

import (
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock/nodemap"
	"github.com/nodetun/nodetun/magicsock/udpconn"
	"github.com/nodetun/nodetun/relay"
)

// inboxSize is the number of receives that wait for ReadBatch; their sender
// waits when it is full, which the kernel's buffer or the relay's TCP feels.
const inboxSize = 16

// inbox holds receives from the second socket and from relays, and the memory
// they lie in.
type inbox struct {
	queue chan inbound
	free  chan []byte
}

func newInbox() *inbox {
	return &inbox{queue: make(chan inbound, inboxSize), free: make(chan []byte, inboxSize)}
}

// buffer returns memory of MaxMessage bytes.
func (i *inbox) buffer() []byte {
	select {
	case b := <-i.free:
		return b
	default:
		return make([]byte, udpconn.MaxMessage)
	}
}

func (i *inbox) recycle(b []byte) {
	if cap(b) < udpconn.MaxMessage {
		return
	}
	select {
	case i.free <- b[:udpconn.MaxMessage]:
	default:
	}
}

// enqueue hands a receive to ReadBatch, waiting for room, and reports whether
// it did.
func (c *Conn) enqueue(in inbound) bool {
	select {
	case c.inbox.queue <- in:
		c.pc.wake()
		return true
	case <-c.closed:
		return false
	}
}

// deliverRelay is called by the relay actor with the content of one frame,
// which is its own again afterwards. Disco is taken out here, so that it does
// not wait behind data.
func (c *Conn) deliverRelay(url identity.RelayURL, src identity.NodeID, payload []byte) {
	if len(payload) > udpconn.MaxMessage {
		c.stats.recvGarbage.Add(1)
		return
	}
	in := inbound{data: payload, framed: true, from: nodemap.RelayAddr(url), src: src}
	if relay.IsDisco(payload) {
		for b := in.next(); b != nil; b = in.next() {
			c.disco.offer(b, in.from, in.src, udpconn.Local{})
		}
		return
	}
	in.buf = c.inbox.buffer()
	in.data = in.buf[:copy(in.buf, payload)]
	c.enqueue(in)
}

// readOther reads the second UDP socket until it is closed.
func (c *Conn) readOther() {
	ms := newMessages(udpconn.MaxBatch)
	for {
		n, err := c.other.Read(ms)
		if err != nil { // closed
			return
		}
		for i := range n {
			m := &ms[i]
			in := fromUDP(m)
			in.buf, m.Buf = m.Buf, c.inbox.buffer()
			if !c.enqueue(in) {
				return
			}
		}
	}
}

func newMessages(n int) []udpconn.Message {
	ms := make([]udpconn.Message, n)
	for i := range ms {
		ms[i].Buf = make([]byte, udpconn.MaxMessage)
	}
	return ms
}

func fromUDP(m *udpconn.Message) inbound {
	return inbound{data: m.Buf[:m.N], seg: m.Seg, from: nodemap.UDPAddr(m.From), ecn: m.TOS & 3, local: m.Local}
}
