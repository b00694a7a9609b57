package engine

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/packet"
	"github.com/nodetun/nodetun/internal/rules"
	"github.com/nodetun/nodetun/internal/wire"
	"github.com/nodetun/nodetun/magicsock/nodemap"
)

// access is what a peer may do here. It is never changed, only replaced.
type access struct {
	rules rules.Rules
	until time.Time // of the rules, zero for good
	// generation grows with every change of the rules (S16).
	generation uint64
	// denied: no connection with this peer, in either direction.
	denied bool
	// onDemand: the node is no peer (S19).
	onDemand bool
}

// peer is everything the engine knows of one peer.
type peer struct {
	engine *Engine
	id     identity.NodeID

	access atomic.Pointer[access]
	table  flowTable
	rx, tx atomic.Uint64 // payload bytes: IP packets, and bytes of TCP flows
	// lastSeen is when something of the peer last arrived, in Unix nanoseconds.
	lastSeen atomic.Int64
	denials  rate // of what is logged about its packets, faults about its protocol
	faults   rate
	crowded  rate
	asked    question // whether it lives
	guard    guard
	// greeting counts connections that the peer dialled and that wait for its hello.
	greeting atomic.Int32
	// used is when this host last sent something to a node on demand, in Unix
	// nanoseconds, to the minute.
	used atomic.Int64

	// fragments judges packets that come in pieces; only the reader of the
	// peer's datagrams uses it, under fragmentMu as there may be two sessions.
	fragmentMu sync.Mutex
	fragments  packet.Reassembler

	// current is the session that new traffic takes; written under mu.
	current atomic.Pointer[session]

	// mu guards the fields below.
	mu       sync.Mutex
	name     string
	addr     identity.NodeAddr
	sessions []*session // all that are up, current included
	attempt  *attempt   // the dial that runs now, nil if none
	turn     time.Time  // not to be dialled before; zero: at any time
	waiting  [][]byte   // packets that wait for it
	flows    map[*flow]struct{}
	byPort   map[uint16]int // the number of flows by their destination port
	lastErr  string
	refused  bool // the peer itself said no
	theirs   []string
	theyName string
	hostKeys []string    // of its ssh server, checked
	facts    *wire.Facts // the peer's last, never changed; nil for none
	// checked and reachable remember what the socket said of the peer last.
	checked   time.Time
	reachable bool
}

// Limits of what waits for a dial.
const (
	maxWaiting = 64
	maxTCP     = 1024 // flows of one peer (S29)
	// reservedTCP of them are for ssh and ports that have few.
	reservedTCP = 128
	// crowdedTCP is from how many on the user should know.
	crowdedTCP = 800
	// maxGreeting bounds connections whose hello has not come (S6).
	maxGreeting = 2
)

func newPeer(e *Engine, id identity.NodeID) *peer {
	p := &peer{engine: e, id: id, flows: make(map[*flow]struct{}), byPort: make(map[uint16]int), reachable: true}
	p.table.evicted = &e.count.evicted
	p.access.Store(&access{denied: true})
	return p
}

// configure applies an entry of the list of peers.
func (p *peer) configure(entry Peer) {
	entry.Addr.ID = p.id
	p.mu.Lock()
	p.name, p.addr = entry.Name, entry.Addr
	p.mu.Unlock()
	if len(entry.Addr.Direct) > 0 || !entry.Addr.Relay.IsZero() {
		if err := p.engine.cfg.Endpoint.Socket().AddNodeAddr(entry.Addr, string(nodemap.SourceApp)); err != nil {
			p.fail("the address given for it cannot be used: "+err.Error(), false)
		}
	}
	old := p.access.Load()
	same := slices.Equal(old.rules.Strings(), entry.Rules.Strings()) && old.generation > 0
	if same && old.until.Equal(entry.Until) {
		return
	}
	next := &access{rules: entry.Rules, until: entry.Until, generation: old.generation + 1, denied: entry.Rules.Empty()}
	if same {
		next.generation = old.generation
	}
	p.access.Store(next)
	if next.denied {
		p.shutdown(wire.CloseDenied, "denied")
		return
	}
	p.judgeFlows(next)
	for _, s := range p.live() {
		s.tellRules(next)
	}
}

// forget cuts the peer off for good: nothing that holds it still may use it.
func (p *peer) forget() {
	p.access.Store(&access{generation: p.access.Load().generation + 1, denied: true})
	p.shutdown(wire.CloseDenied, "forgotten")
}

// allowed reports whether this host talks with the peer at all.
func (p *peer) allowed() bool { return !p.access.Load().denied }

// mayBeFound reports whether a dial has a chance: something is known of where the peer is,
// or may be found out.
func (p *peer) mayBeFound() bool {
	info, known := p.engine.cfg.Endpoint.Socket().Remote(p.id)
	return known && (len(info.Addrs) > 0 || !info.RelayInfo.URL.IsZero()) || p.engine.cfg.Endpoint.Resolves()
}

// judgeFlows ends the running inbound flows that the rules no longer allow.
func (p *peer) judgeFlows(a *access) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for f := range p.flows {
		if f.inbound && !a.rules.Allows(protoTCP, f.port) {
			f.abort()
		}
	}
}

// shutdown ends everything that runs with the peer.
func (p *peer) shutdown(code wire.CloseCode, reason string) {
	p.mu.Lock()
	sessions := slices.Clone(p.sessions)
	waiting := p.waiting
	p.waiting = nil
	if p.attempt != nil {
		p.attempt.cancel()
	}
	for f := range p.flows {
		f.abort()
	}
	p.mu.Unlock()
	p.table.clear()
	for _, s := range sessions {
		s.goodbye(code, reason)
	}
	p.reject(waiting)
}

// addFlow registers a running flow, unless the peer has too many or is denied.
// An inbound flow is judged again: the rules may have changed since it was
// (S16).
func (p *peer) addFlow(f *flow) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.access.Load()
	if a.denied || f.inbound && !a.rules.Allows(protoTCP, f.port) {
		return false
	}
	if !p.hasRoomLocked(f.port) {
		p.engine.count.drop(dropFlows)
		if p.crowded.allow(time.Now(), denialLogInterval) {
			p.engine.log.Warn("too many TCP connections with a peer", "peer", p.id, "open", len(p.flows), "port", f.port)
		}
		return false
	}
	p.flows[f] = struct{}{}
	p.byPort[f.port]++
	return true
}

// hasRoomLocked reports whether a flow to a port may be opened. The last places are for
// ports that have few, and for ssh: who leaks connections has to be looked for.
func (p *peer) hasRoomLocked(port uint16) bool {
	n := len(p.flows)
	return n < maxTCP-reservedTCP || n < maxTCP && (port == sshPort || p.byPort[port] < reservedTCP/4)
}

// crowdLocked returns the port with the most flows, and how many those are.
func (p *peer) crowdLocked() (port uint16, n int) {
	for candidate, count := range p.byPort {
		if count > n || count == n && candidate < port {
			port, n = candidate, count
		}
	}
	return port, n
}

func (p *peer) removeFlow(f *flow) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, there := p.flows[f]; !there {
		return
	}
	delete(p.flows, f)
	if p.byPort[f.port]--; p.byPort[f.port] == 0 {
		delete(p.byPort, f.port)
	}
}

// live returns the sessions that are up.
func (p *peer) live() []*session {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.sessions)
}

// fail remembers why the peer cannot be used now. refused: by its own word.
func (p *peer) fail(text string, refused bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lastErr, p.refused = text, refused
}

// wasRefused reports whether the peer said no when it was asked last.
func (p *peer) wasRefused() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refused
}

// saw notes a sign of life.
func (p *peer) saw(now time.Time) { p.lastSeen.Store(now.UnixNano()) }

// answering reports whether the socket still believes that the peer answers.
// The socket is asked once a second at most.
func (p *peer) answering() bool {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Sub(p.checked) >= time.Second {
		p.checked = now
		info, known := p.engine.cfg.Endpoint.Socket().Remote(p.id)
		p.reachable = !known || !info.Unreachable
	}
	return p.reachable
}

// enqueue keeps a packet until a session is up, and sees that one comes.
func (p *peer) enqueue(ip []byte) {
	p.mu.Lock()
	if s := p.current.Load(); s != nil { // it came up meanwhile
		p.mu.Unlock()
		s.sendPacket(ip)
		return
	}
	full := len(p.waiting) >= maxWaiting
	if !full {
		p.waiting = append(p.waiting, slices.Clone(ip))
	}
	p.mu.Unlock()
	if full {
		p.engine.count.drop(dropQueue)
	}
	p.dialInBackground()
}

// flushWaiting sends what waited through the session.
func (p *peer) flushWaiting(s *session) {
	p.mu.Lock()
	waiting := p.waiting
	p.waiting = nil
	p.mu.Unlock()
	for _, ip := range waiting {
		s.sendPacket(ip)
	}
}

// reject answers packets that cannot be delivered with ICMP unreachable.
func (p *peer) reject(waiting [][]byte) {
	for _, ip := range waiting {
		p.engine.count.drop(dropUnreachable)
		p.engine.answerICMP(ip, packet.HostUnreachable)
	}
}

// greet dials once, for no traffic's sake.
func (p *peer) greet() {
	ctx, cancel := context.WithTimeout(p.engine.life, dialTimeout)
	defer cancel()
	_, _ = p.connect(ctx) // the outcome is in lastErr
}
