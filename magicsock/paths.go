package magicsock

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/netmon"
	"github.com/nodetun/nodetun/internal/outage"
	"github.com/nodetun/nodetun/magicsock/nodemap"
)

// paths is the node map, which is not safe for concurrent use, with its guard,
// and what this package keeps beside it for each node.
type paths struct {
	// kick wakes the clock when something is due earlier than it thinks.
	kick chan struct{}

	// mu guards the fields below; no I/O and no callback under it. It is taken
	// last: discoIO holds its own mutex when it asks.
	mu    sync.Mutex
	nodes *nodemap.Map
	peers map[netip.AddrPort]*peer // by mapped address
	sweep int                      // size of peers at which to look for stale ones
	due   time.Time                // when the clock will wake; zero for never
}

// A node has four mapped addresses, port after port: two by turns, from one outage to the
// next, and again two for packets that are marked (internal/outage).
const (
	mappedPorts = 4
	markedPorts = 2 // how far the port of a marked packet is from that of another
)

// addrPair is the sender of packets that are not marked, and of those that are.
type addrPair [2]*net.UDPAddr

// peer is one node as QUIC sees it. addrs and id never change.
type peer struct {
	id    identity.NodeID
	addrs [2]addrPair

	silence outage.Watch // guarded by paths.mu,
	ecn     outage.ECN   // as this is
	codings codings
}

const firstSweep = 64

func newPaths(m *nodemap.Map, tun []netip.Prefix) *paths {
	m.SetTunPrefixes(time.Now(), tun)
	return &paths{
		kick: make(chan struct{}, 1), nodes: m,
		peers: make(map[netip.AddrPort]*peer), sweep: firstSweep,
	}
}

// do calls f with the lock held and returns a copy of the actions, to be
// carried out without it.
func (p *paths) do(f func(*nodemap.Map) []nodemap.Action) []nodemap.Action {
	p.mu.Lock()
	defer p.mu.Unlock()
	acts := slices.Clone(f(p.nodes))
	p.scheduleLocked()
	return acts
}

// scheduleLocked wakes the clock if the node map wants it to.
func (p *paths) scheduleLocked() {
	next := p.nodes.Next()
	if next.IsZero() || !p.due.IsZero() && !next.Before(p.due) {
		return
	}
	p.due = next
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// peerLocked finds or makes the entry of a mapped address that the node map
// knows; nil if it does not.
func (p *paths) peerLocked(mapped netip.AddrPort) *peer {
	if e, ok := p.peers[mapped]; ok {
		return e
	}
	id, ok := p.nodes.NodeByMapped(mapped)
	if !ok {
		return nil
	}
	if len(p.peers) >= p.sweep {
		p.sweepLocked()
	}
	e := &peer{id: id}
	for turn := range e.addrs {
		for marked := range e.addrs[turn] {
			port := mapped.Port() + uint16(turn+marked*markedPorts)
			e.addrs[turn][marked] = net.UDPAddrFromAddrPort(netip.AddrPortFrom(mapped.Addr(), port))
		}
	}
	p.peers[mapped] = e
	return e
}

// sweepLocked drops the entries of nodes that the node map has forgotten.
func (p *paths) sweepLocked() {
	for mapped := range p.peers {
		if _, ok := p.nodes.NodeByMapped(mapped); !ok {
			delete(p.peers, mapped)
		}
	}
	p.sweep = max(firstSweep, 2*len(p.peers))
}

func (p *paths) mappedAddr(id identity.NodeID) *net.UDPAddr {
	p.mu.Lock()
	defer p.mu.Unlock()
	mapped := p.nodes.Mapped(id)
	if e := p.peerLocked(mapped); e != nil {
		return e.addrs[0][0]
	}
	return net.UDPAddrFromAddrPort(mapped)
}

func (p *paths) nodeOf(mapped netip.AddrPort) (identity.NodeID, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.nodes.NodeByMapped(firstOf(mapped))
}

// knows says that the node map has an entry of the node.
func (p *paths) knows(id identity.NodeID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.nodes.Remote(time.Now(), id)
	return ok
}

func (p *paths) forget(id identity.NodeID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.nodes.Remove(id)
	for mapped, e := range p.peers {
		if e.id == id {
			delete(p.peers, mapped)
		}
	}
}

// firstOf returns the mapped address of a node that goes by any of its four.
func firstOf(addr netip.AddrPort) netip.AddrPort {
	if addr.Port()-nodemap.MappedPort < mappedPorts {
		return netip.AddrPortFrom(addr.Addr(), nodemap.MappedPort)
	}
	return addr
}

// received notes n bytes of payload and returns the sender and the addresses under which QUIC
// knows it; nil for an unknown one. After an outage, which revived tells of, they
// are others.
func (p *paths) received(now time.Time, from nodemap.Addr, relaySrc identity.NodeID, n int) (e *peer, addrs *addrPair, revived bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	mapped, ok := p.nodes.Received(now, from, relaySrc, n)
	p.scheduleLocked()
	if !ok {
		return nil, nil, false
	}
	if e = p.peerLocked(mapped); e == nil {
		return nil, nil, false
	}
	turn, revived := e.silence.Heard(now)
	return e, &e.addrs[turn], revived
}

// passage is how a batch of packets leaves.
type passage struct {
	nodemap.Route
	coding *Coding          // by which it is coded; nil: it is not
	ecn    uint8            // its ECN field
	first  []nodemap.Action // come before it
}

// route asks how a batch of packets leaves that QUIC sends to a mapped address with an ECN field,
// and remembers those that may have to be sent again.
func (p *paths) route(now time.Time, mapped netip.AddrPort, b []byte, seg int, ecn uint8) passage {
	packets := (len(b) + seg - 1) / seg
	path, mapped := mapped.Port(), firstOf(mapped)
	p.mu.Lock()
	defer p.mu.Unlock()
	r, acts := p.nodes.Route(now, mapped, len(b), packets, isInitial(b))
	w := passage{Route: r, ecn: ecn}
	if len(acts) > 0 {
		w.first = slices.Clone(acts)
	}
	p.scheduleLocked()
	if e := p.peerLocked(mapped); e != nil {
		e.silence.Sent(now, b, seg)
		w.ecn = e.ecn.Mark(b, path, ecn)
		if r.Coded {
			w.coding = e.codings.forSending(b, seg)
		}
	}
	return w
}

// turn has QUIC, where it was dialled, know a node by its other address from now on.
func (p *paths) turn(id identity.NodeID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	mapped, _ := p.nodes.MappedOf(id)
	if e, ok := p.peers[mapped]; ok {
		e.silence.Turn()
	}
}

// active says that payload of some session moved a short while ago.
func (p *paths) active(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.nodes.Active(now)
}

// cutter returns the node that a half from that address belongs to, if it may
// send halves.
func (p *paths) cutter(now time.Time, from netip.AddrPort) (identity.NodeID, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.nodes.Cutter(now, from)
}

// missed copies the packets that a node may have missed in an outage.
func (p *paths) missed(now time.Time, id identity.NodeID) [][]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	mapped, _ := p.nodes.MappedOf(id) // which makes no entry (S6)
	if e, ok := p.peers[mapped]; ok {
		return e.silence.Missed(now)
	}
	return nil
}

// runClock calls the node map when something is due.
func (c *Conn) runClock(ctx context.Context) {
	p := c.paths
	timer := time.NewTimer(0)
	defer timer.Stop()
	for due := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-p.kick:
		case <-timer.C:
			if late := time.Since(due); late > stopGap {
				c.log.Info("this process stood still", "for", late)
				select {
				case c.networkKick <- netmon.Event{Slept: true}:
				default:
				}
			}
		}
		acts, wait := p.tick(time.Now())
		c.perform(acts)
		due = time.Now().Add(wait)
		timer.Reset(wait)
	}
}

// stopGap is how late the clock is when the process did not run for a while: nobody
// tells of that, and the looks of the link monitor are a minute apart.
const stopGap = 5 * time.Second

// idleWait is how long the clock sleeps when nothing is due.
const idleWait = time.Hour

// tick calls the node map if its time has come and says how long to sleep.
func (p *paths) tick(now time.Time) ([]nodemap.Action, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.due = p.nodes.Next()
	var acts []nodemap.Action
	if !p.due.IsZero() && !now.Before(p.due) {
		acts, p.due = p.nodes.Tick(now)
		acts = slices.Clone(acts)
	}
	if p.due.IsZero() {
		return acts, idleWait
	}
	return acts, max(time.Millisecond, p.due.Sub(now))
}

// isInitial recognises a QUIC Initial (RFC 9000 17.2.2): long header, type 0.
func isInitial(b []byte) bool { return len(b) > 0 && b[0]&0xf0 == 0xc0 }
