package netstack

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Pending is a connection request, a SYN that was not answered yet. It is
// answered once: by Accept, Reset or Unreachable.
type Pending struct {
	stack    *Stack
	id       stack.TransportEndpointID
	src, dst netip.AddrPort
	seq      uint32
	// syn is the packet itself: ICMP errors quote it.
	syn []byte
	req *tcp.ForwarderRequest

	// mu guards the fields below.
	mu      sync.Mutex
	decided bool
	gone    bool
	done    chan struct{}
	last    time.Time
	timer   *time.Timer
}

// Src is the caller.
func (p *Pending) Src() netip.AddrPort { return p.src }

// Dst is whom it calls.
func (p *Pending) Dst() netip.AddrPort { return p.dst }

// Done is closed when the caller gave up, or the stack was closed. A caller
// that gives up says nothing; it is noticed by SYNs that no longer come again
// (after 5 seconds at first, later after twice the last gap), or by a SYN of
// another attempt from the same port.
func (p *Pending) Done() <-chan struct{} { return p.done }

// syn handles a segment of no known connection. It reports false for what the
// stack shall answer with RST.
func (s *Stack) syn(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	segment := header.TCP(pkt.TransportHeader().Slice())
	if segment.Flags().Contains(header.TCPFlagRst) {
		s.callerReset(id)
	}
	if flags := segment.Flags(); !flags.Contains(header.TCPFlagSyn) || flags.Intersects(header.TCPFlagAck|header.TCPFlagRst|header.TCPFlagFin) {
		return false
	}
	p, known := s.note(id, pkt, segment.SequenceNumber())
	if known || p == nil {
		return known
	}
	if !s.fwd.HandlePacket(id, pkt) {
		s.forget(p)
		s.work.Done()
		return false
	}
	return true
}

// callerReset notes that the caller took its SYN back, as few systems do.
func (s *Stack) callerReset(id stack.TransportEndpointID) {
	s.mu.Lock()
	p := s.pending[id]
	s.mu.Unlock()
	if p != nil {
		p.giveUp()
	}
}

// note finds or makes the Pending of a SYN. Without a place for another one it
// returns nil.
func (s *Stack) note(id stack.TransportEndpointID, pkt *stack.PacketBuffer, seq uint32) (p *Pending, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, known = s.pending[id]; known {
		p.again(seq)
		return p, true
	}
	if s.closed || s.cfg.Accept == nil {
		return nil, false
	}
	if len(s.pending) >= maxPending {
		s.overflow.Add(1)
		return nil, false
	}
	p = newPending(s, id, seq)
	p.syn = slices.Concat(pkt.NetworkHeader().Slice(), pkt.TransportHeader().Slice(), pkt.Data().AsRange().ToSlice())
	s.pending[id] = p
	s.work.Add(1)
	return p, false
}

func newPending(s *Stack, id stack.TransportEndpointID, seq uint32) *Pending {
	p := &Pending{
		stack: s,
		id:    id,
		src:   netip.AddrPortFrom(addrOf(id.RemoteAddress), id.RemotePort),
		dst:   netip.AddrPortFrom(addrOf(id.LocalAddress), id.LocalPort),
		seq:   seq,
		done:  make(chan struct{}),
		last:  time.Now(),
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer = time.AfterFunc(patience(0), p.giveUp)
	return p
}

// patience is how long to wait for the next SYN after a gap between two.
// Systems double the gap, some after a few equal ones; the first is up to 3 s.
func patience(gap time.Duration) time.Duration {
	return 2*max(gap, 2*time.Second) + time.Second
}

// again notes that the SYN was sent again, or that it is another one: then the
// first attempt is over, and the next repetition will find its place free.
func (p *Pending) again(seq uint32) {
	if seq != p.seq {
		p.giveUp()
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.decided || p.gone {
		return
	}
	now := time.Now()
	p.timer.Reset(patience(now.Sub(p.last)))
	p.last = now
}

// giveUp closes done.
func (p *Pending) giveUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.gone && !p.decided {
		p.gone = true
		p.timer.Stop()
		close(p.done)
	}
}

// handle runs in the goroutine that the forwarder starts for a SYN.
func (s *Stack) handle(req *tcp.ForwarderRequest) {
	defer s.work.Done()
	s.mu.Lock()
	p := s.pending[req.ID()]
	s.mu.Unlock()
	p.req = req
	s.cfg.Accept(p)
	p.Reset()
}

// finish ends the request. Only when the forwarder, which has a table of its
// own, has let go of it may another SYN of these ends begin anew.
func (p *Pending) finish(reset bool) {
	p.req.Complete(reset)
	p.stack.forget(p)
}

// forget takes a Pending out of the table.
func (s *Stack) forget(p *Pending) {
	p.timer.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, p.id)
}

// decide claims the one answer.
func (p *Pending) decide() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.decided {
		return false
	}
	p.decided = true
	p.timer.Stop()
	return true
}

// left reports whether the caller gave up.
func (p *Pending) left() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// acceptWait is how long a caller may take to acknowledge that it was answered. It is this
// host's kernel: who stays dumb for so long is no longer there, or plays with packets.
const acceptWait = 10 * time.Second

// Accept completes the handshake with the caller and waits until it has. It
// returns ErrDecided after another answer, and ErrGone if the caller is no
// longer there.
func (p *Pending) Accept() (*Flow, error) {
	if !p.decide() {
		return nil, ErrDecided
	}
	if p.left() {
		p.finish(false)
		return nil, ErrGone
	}
	f := newFlow(p.stack, p.dst, p.src)
	dumb := time.AfterFunc(p.stack.acceptWait, func() { p.stack.abandon(p.id) })
	endpoint, err := p.req.CreateEndpoint(&f.queue)
	dumb.Stop()
	p.finish(false)
	if err != nil {
		return nil, ErrGone
	}
	f.start(endpoint)
	p.stack.accepted.Add(1)
	return f, nil
}

// abandon ends a handshake that waits for the caller.
func (s *Stack) abandon(id stack.TransportEndpointID) {
	if endpoint := s.find(id); endpoint != nil && tcp.EndpointState(endpoint.State()) == tcp.StateSynRecv {
		endpoint.Abort()
	}
}

// Reset answers with RST: the caller sees "connection refused". After another
// answer it does nothing, and for a caller that gave up.
func (p *Pending) Reset() {
	if p.decide() {
		p.finish(!p.left())
	}
}

// addrOf converts an address of gVisor.
func addrOf(a tcpip.Address) netip.Addr {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return addr
}
