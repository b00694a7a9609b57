package engine

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/nodetun/nodetun/internal/packet"
	"github.com/nodetun/nodetun/internal/vnet"
)

const (
	// probeIdle is how long nothing went over a flow whose host sends a segment that might be
	// a keep-alive probe. Acknowledgements come sooner.
	probeIdle = time.Second
	// systemIdle is the idle time from which a first probe is taken for the system's own, of
	// two hours by default (RFC 1122 4.2.3.6), which no program asked for: it is answered
	// here, so that a laptop that sleeps keeps its sessions.
	systemIdle = 7000 * time.Second
	// probeFresh is how recent a sign of life of the peer is enough of an answer, probeWait
	// how long the peer is waited for that gave none.
	probeFresh = time.Second
	probeWait  = 5 * time.Second
	// maxProbes bounds those that wait for one peer.
	maxProbes = 256
)

// probes answers the keep-alive of programs truly. netstack would acknowledge each probe
// though the machine at the far end is gone; so a probe of a program that set its own
// keep-alive reaches netstack only when the peer has shown that it lives, and is lost else,
// as on a cable.
type probes struct {
	flows sync.Map // of open flows: *flow by outage.Ends, as the host's packets name them
}

// heldBack is a packet of the host that waits.
type heldBack struct {
	header vnet.Header
	ip     []byte
}

// hold reports whether a segment is kept back: what may be a probe, while it is asked
// whether the peer lives. It may also open the window of a program that reads slowly; that
// may wait for a round trip, or for ever if the peer is gone: on a cable what the window held
// up would be lost with it.
func (s *probes) hold(p *peer, h vnet.Header, ip []byte, info *packet.Info, now time.Time) bool {
	if info.Proto != protoTCP || info.TCPFlags != tcpACK || hasData(ip, info) {
		return false
	}
	found, ok := s.flows.Load(endsOfSegment(info))
	if !ok {
		return false
	}
	f := found.(*flow)
	idle := now.Sub(time.Unix(0, f.moved.Load()))
	switch {
	case idle < probeIdle, idle >= systemIdle:
		return false
	case now.Sub(time.Unix(0, p.lastSeen.Load())) < probeFresh:
		return false
	}
	p.asked.hold(p, heldBack{h, slices.Clone(ip)})
	return true
}

// question is whether a peer lives; segments wait for the answer.
type question struct {
	mu      sync.Mutex // guards the fields below
	waiting []heldBack
	asking  bool
}

// hold keeps a segment until the peer has answered, and asks it unless that was done.
func (q *question) hold(p *peer, one heldBack) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) < maxProbes {
		q.waiting = append(q.waiting, one)
	}
	if !q.asking {
		q.asking = p.engine.spawn(func() { q.ask(p) })
	}
}

func (q *question) ask(p *peer) {
	alive := false
	if s := p.current.Load(); s != nil {
		ctx, cancel := context.WithTimeout(p.engine.life, probeWait)
		alive = s.pingOnce(ctx, 0) == nil
		cancel()
	}
	q.mu.Lock()
	waiting := q.waiting
	q.waiting, q.asking = nil, false
	q.mu.Unlock()
	if !alive {
		return
	}
	p.saw(time.Now())
	for _, one := range waiting {
		p.engine.stack.Inject(one.header, one.ip)
	}
}
