package magicsock

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock/nodemap"
	"github.com/nodetun/nodetun/magicsock/udpconn"
)

const (
	// queuedSends is the number of batches that wait for the writer; then
	// write blocks.
	queuedSends = 4
	// bulk is the size from which a write is taken for part of a stream of
	// them. QUIC's batches are 20 KiB at most, so one of this size is full and
	// the next is near.
	bulk = 16 << 10
)

// writePayload sends to a direct address. A refusal is told to the node map.
func (c *Conn) writePayload(b []byte, d destination) error {
	err := c.write(b, d.seg, d.ecn, d.to)
	switch {
	case err == nil:
		c.stats.sendUDP.Add(uint64(len(b)))
		return nil
	case errors.Is(err, net.ErrClosed):
		return err
	}
	c.stats.sendErrors.Add(1)
	c.log.Debug("udp send", "node", d.node, "to", d.to, "err", err)
	c.perform(c.paths.do(func(m *nodemap.Map) []nodemap.Action {
		return m.SendFailed(time.Now(), d.node, nodemap.UDPAddr(d.to))
	}))
	return nil
}

// errNoFamily says that there is no socket of that IP version.
var errNoFamily = errors.New("no socket of that IP version")

// writeSocket sends through the socket of the right family, or through the
// extra one that reaches that address.
func (c *Conn) writeSocket(b []byte, seg int, ecn uint8, to netip.AddrPort) error {
	if s := c.punch.socket(to); s != nil {
		return s.Write(b, seg, ecn, to)
	}
	s := c.socks.reach(to.Addr())
	if s == nil {
		return errNoFamily
	}
	return s.Write(b, seg, ecn, to)
}

// sender joins consecutive writes of one destination into larger sends: the
// cost of a send is mostly that of the call, not of the bytes. Full batches go
// through a goroutine, whose queue grows into larger sends while it is in the
// kernel; anything else is sent by the caller, without a hop, unless the
// queue would be overtaken.
type sender struct {
	send func(b []byte, d destination) error

	mu      sync.Mutex // guards the fields below
	more    sync.Cond  // the queue is not empty, or closed
	room    sync.Cond  // the queue is not full, or closed
	queue   []*batch   // the first is sent next
	free    []*batch
	running bool // run is there to serve the queue
	busy    bool // run is in the kernel
	closed  bool
}

// destination is what all packets of a batch have in common.
type destination struct {
	to   netip.AddrPort
	node identity.NodeID
	ecn  uint8
	seg  int
}

type batch struct {
	destination
	data []byte
}

func newSender(send func([]byte, destination) error) *sender {
	s := &sender{send: send}
	s.more.L, s.room.L = &s.mu, &s.mu
	for range queuedSends + 1 {
		s.free = append(s.free, &batch{data: make([]byte, 0, udpconn.MaxSend)})
	}
	return s
}

// write sends b, packets of d.seg bytes of which the last may be shorter, now
// or soon. b is the caller's again when it returns. The only error wraps
// net.ErrClosed.
func (s *sender) write(b []byte, d destination) error {
	s.mu.Lock()
	for {
		switch {
		case s.closed:
			s.mu.Unlock()
			return net.ErrClosed
		case s.joinLocked(b, d):
			s.mu.Unlock()
			return nil
		case s.directLocked(b):
			s.mu.Unlock()
			return s.send(b, d)
		case len(s.queue) < queuedSends:
			s.pushLocked(b, d)
			s.mu.Unlock()
			return nil
		}
		s.room.Wait()
	}
}

// joinLocked appends b to the last batch of the queue if that is possible.
func (s *sender) joinLocked(b []byte, d destination) bool {
	if len(s.queue) == 0 {
		return false
	}
	last := s.queue[len(s.queue)-1]
	n := len(last.data)
	if last.destination != d || n%d.seg != 0 || n+len(b) > udpconn.MaxSend || n+len(b) > d.seg*udpconn.MaxSegments {
		return false
	}
	last.data = append(last.data, b...)
	return true
}

// directLocked says that the caller sends by itself.
func (s *sender) directLocked(b []byte) bool {
	return !s.running || len(b) > udpconn.MaxSend || len(s.queue) == 0 && !s.busy && len(b) < bulk
}

func (s *sender) pushLocked(b []byte, d destination) {
	n := len(s.free) - 1
	e := s.free[n]
	s.free = s.free[:n]
	e.destination, e.data = d, append(e.data[:0], b...)
	s.queue = append(s.queue, e)
	if len(s.queue) == 1 && !s.busy {
		s.more.Signal()
	}
}

// run sends what is queued until ctx ends, and that too.
func (s *sender) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, s.close)
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = true
	for {
		for len(s.queue) == 0 {
			if s.closed {
				return
			}
			s.more.Wait()
		}
		e := s.queue[0]
		s.queue = append(s.queue[:0], s.queue[1:]...)
		s.busy = true
		s.room.Signal()
		s.mu.Unlock()
		// An error is that of a closed socket: the next write will see it.
		_ = s.send(e.data, e.destination)
		s.mu.Lock()
		s.busy = false
		s.free = append(s.free, e)
	}
}

func (s *sender) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.more.Broadcast()
	s.room.Broadcast()
}
