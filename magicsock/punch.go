package magicsock

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock/disco"
	"github.com/nodetun/nodetun/magicsock/nodemap"
	"github.com/nodetun/nodetun/magicsock/udpconn"
)

// A NAT that gives each destination another port (hard) and one that does not
// (easy) are brought together by chance: the hard side opens many sockets and
// sends one ping from each, which makes as many mappings, and the easy side
// pings as many ports. Where the hard NAT counts its ports up there is no
// chance in it: the hard side asks a STUN server where the counter stands and
// names the next ports in a call-me-maybe.
//
// The node map decides when (at most once a minute and node); here it is done.
const (
	punchJobs  = 4                      // attempts that wait
	punchGap   = 4 * time.Millisecond   // between two packets: 256 take a second
	punchTime  = 5 * time.Second        // how long the sockets listen
	punchAhead = 16                     // ports named to the peer of a counting NAT
	punchIdle  = 2 * time.Minute        // an adopted socket from which nothing came closes
	punchRead  = 4 << 10                // buffer of a socket that is not adopted
	stunWait   = 600 * time.Millisecond // for the answer that tells the counter
	portLow    = 1024                   // least port that is tried
)

// extra is one more socket, good for one far address.
type extra struct {
	Socket
	to      netip.AddrPort
	adopted atomic.Bool
}

// puncher owns the extra sockets.
type puncher struct {
	c    *Conn
	jobs chan nodemap.Action
	wg   sync.WaitGroup
	// via holds the adopted sockets by far address: packets to it leave there.
	// It is replaced whole, never changed; nil for none.
	via atomic.Pointer[map[netip.AddrPort]*extra]

	mu   sync.Mutex // guards the replacing of via, and open
	open map[*extra]struct{}
}

func newPuncher(c *Conn) *puncher {
	return &puncher{c: c, jobs: make(chan nodemap.Action, punchJobs), open: make(map[*extra]struct{})}
}

// start queues an attempt; too many at once are dropped.
func (p *puncher) start(a nodemap.Action) {
	select {
	case p.jobs <- a:
	default:
	}
}

// run makes attempts, one at a time, until ctx ends and all sockets are closed.
func (p *puncher) run(ctx context.Context) {
	defer p.wg.Wait()
	defer p.closeAll()
	for {
		select {
		case <-ctx.Done():
			return
		case a := <-p.jobs:
			if a.Kind == nodemap.PunchSpray {
				p.spray(ctx, &a)
			} else {
				p.openSockets(ctx, &a)
			}
		}
	}
}

// pause waits for d; false when ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// spray pings a.Size random ports of one address (the easy side).
func (p *puncher) spray(ctx context.Context, a *nodemap.Action) {
	p.c.log.Debug("punch: pinging random ports", "node", a.Node, "addr", a.To.UDP.Addr(), "count", a.Size)
	tried := make(map[uint16]bool, a.Size)
	for len(tried) < a.Size {
		port := uint16(portLow + rand.IntN(1<<16-portLow))
		if tried[port] {
			continue
		}
		tried[port] = true
		to := netip.AddrPortFrom(a.To.UDP.Addr(), port)
		p.c.stats.sentPunch.Add(1)
		p.c.perform(p.c.paths.do(func(m *nodemap.Map) []nodemap.Action { return m.PunchPing(a.Node, to) }))
		if !pause(ctx, punchGap) {
			return
		}
	}
}

// openSockets opens a.Size sockets and sends one ping from each (the hard side).
func (p *puncher) openSockets(ctx context.Context, a *nodemap.Action) {
	count, delta := a.Size, p.c.survey.portStep()
	if delta != 0 {
		count = punchAhead + 1
	}
	p.c.log.Debug("punch: opening sockets", "node", a.Node, "addr", a.To.UDP, "count", count, "step", delta)
	if delta == 0 {
		for range count {
			e := p.open1(ctx, a.To.UDP)
			if e == nil || !p.ping(a, e) || !pause(ctx, punchGap) {
				return
			}
		}
		return
	}
	p.predict(ctx, a, count, delta)
}

// predict tells the node the ports that the NAT will use next, and uses them.
func (p *puncher) predict(ctx context.Context, a *nodemap.Action, count, delta int) {
	var list []*extra
	for range count {
		e := p.open1(ctx, a.To.UDP)
		if e == nil {
			return
		}
		list = append(list, e)
	}
	seen, ok := p.c.survey.askSTUN(ctx, list[0])
	if !ok {
		return
	}
	var named []netip.AddrPort
	for i := range count - 1 {
		if port := int(seen.Port()) + (i+1)*delta; port > 0 && port < 1<<16 {
			named = append(named, netip.AddrPortFrom(seen.Addr(), uint16(port)))
		}
	}
	for _, e := range list[1:] {
		if !p.ping(a, e) {
			return
		}
	}
	p.c.nameTo(a.Node, named)
}

// ping sends one ping of the node map's making from an extra socket.
func (p *puncher) ping(a *nodemap.Action, e *extra) bool {
	key, err := p.c.disco.keys.get(a.Node)
	if err != nil {
		return false
	}
	p.c.stats.sentPunch.Add(1)
	acts := p.c.paths.do(func(m *nodemap.Map) []nodemap.Action { return m.PunchPing(a.Node, e.to) })
	for i := range acts {
		if acts[i].Kind != nodemap.SendPing {
			continue
		}
		b := disco.Append(make([]byte, 0, discoSpace), p.c.self, &key, &disco.Ping{TxID: acts[i].TxID, Node: p.c.self})
		if e.Write(b, 0, 0, e.to) != nil {
			p.c.stats.sendErrors.Add(1)
		}
	}
	return true
}

// open1 opens one socket and its reader; nil when the system gives no more.
func (p *puncher) open1(ctx context.Context, to netip.AddrPort) *extra {
	s, err := p.c.under.OpenExtra(udpconn.Config{Mark: p.c.cfg.Fwmark, Logger: p.c.log}, to.Addr().Is6())
	if err != nil {
		p.c.log.Debug("punch: no more sockets", "err", err)
		return nil
	}
	e := &extra{Socket: s, to: to}
	_ = e.SetReadDeadline(time.Now().Add(punchTime)) // fails only on a closed socket
	p.mu.Lock()
	defer p.mu.Unlock()
	if ctx.Err() != nil {
		s.Close()
		return nil
	}
	p.open[e] = struct{}{}
	p.wg.Go(func() { p.read(e) })
	return e
}

// read reads an extra socket until it is closed or has been of no use for too
// long.
func (p *puncher) read(e *extra) {
	defer p.close(e)
	ms := []udpconn.Message{{Buf: make([]byte, punchRead)}}
	for {
		n, err := e.Read(ms)
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, net.ErrClosed) {
				p.c.log.Debug("punch: read", "err", err)
			}
			return
		}
		for i := range n {
			p.receive(e, &ms[i])
		}
		if e.adopted.Load() {
			_ = e.SetReadDeadline(time.Now().Add(punchIdle))
			if len(ms) == 1 {
				ms = newMessages(udpconn.MaxBatch)
			}
		}
	}
}

// receive takes what came to an extra socket: everything once it is adopted,
// before that what may be the reason to.
func (p *puncher) receive(e *extra, m *udpconn.Message) {
	in := fromUDP(m)
	if e.adopted.Load() && m.From == e.to {
		in.buf = p.c.inbox.buffer()
		in.data = in.buf[:copy(in.buf, in.data)]
		p.c.enqueue(in)
		return
	}
	for b := in.next(); b != nil; b = in.next() {
		switch classify(b) {
		case classSTUN:
			p.c.survey.checker.HandleSTUN(b, m.From)
		case classDisco:
			if m.From == e.to {
				p.c.disco.offerVia(b, in.from, e)
			}
		}
	}
}

// adopt makes e the socket for packets to its far address: a message of the
// node came there and could be opened.
func (p *puncher) adopt(e *extra) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, alive := p.open[e]; !alive {
		return
	}
	via := p.viaLocked()
	if other := via[e.to]; other != nil {
		return // the first one that worked
	}
	e.adopted.Store(true)
	_ = e.SetReadDeadline(time.Now().Add(punchIdle)) // fails only on a closed socket
	via[e.to] = e
	p.via.Store(&via)
	p.c.log.Debug("punch: a way through", "addr", e.to, "local", e.LocalAddr())
}

// viaLocked copies via.
func (p *puncher) viaLocked() map[netip.AddrPort]*extra {
	if now := p.via.Load(); now != nil {
		return maps.Clone(*now)
	}
	return make(map[netip.AddrPort]*extra)
}

// socket returns the adopted socket for a far address, nil for none.
func (p *puncher) socket(to netip.AddrPort) Socket {
	via := p.via.Load()
	if via == nil {
		return nil
	}
	if e := (*via)[to]; e != nil {
		return e.Socket
	}
	return nil
}

// close ends an extra socket.
func (p *puncher) close(e *extra) {
	p.mu.Lock()
	delete(p.open, e)
	if via := p.viaLocked(); via[e.to] == e {
		delete(via, e.to)
		if len(via) == 0 {
			p.via.Store(nil)
		} else {
			p.via.Store(&via)
		}
	}
	p.mu.Unlock()
	e.Close()
}

// closeAll ends all extra sockets: their mappings are worth nothing in another
// network.
func (p *puncher) closeAll() {
	p.mu.Lock()
	list := make([]*extra, 0, len(p.open))
	for e := range p.open {
		list = append(list, e)
	}
	p.mu.Unlock()
	for _, e := range list {
		e.Close() // its reader does the rest
	}
}

// portStep is the step of a NAT that counts its ports up, 0 for any other.
func (s *survey) portStep() int {
	if r := s.checker.Last(); r != nil {
		return r.PortDelta
	}
	return 0
}

// askSTUN finds out under which address an extra socket is seen.
func (s *survey) askSTUN(ctx context.Context, e *extra) (netip.AddrPort, bool) {
	ctx, cancel := context.WithTimeout(ctx, stunWait)
	defer cancel()
	return s.checker.Ask(ctx, func(b []byte, to netip.AddrPort) error { return e.Write(b, 0, 0, to) })
}

// nameTo tells a node addresses to ping, through its relay.
func (c *Conn) nameTo(node identity.NodeID, addrs []netip.AddrPort) {
	info, ok := c.Remote(node)
	if !ok || info.RelayInfo.URL.IsZero() || len(addrs) == 0 {
		return
	}
	c.stats.sentCallMeMaybe.Add(1)
	addrs = append(addrs, c.callMeAddrs(node)...)
	c.sendDisco(node, nodemap.RelayAddr(info.RelayInfo.URL), &disco.CallMeMaybe{Addrs: addrs[:min(len(addrs), maxCallMe)]})
}
