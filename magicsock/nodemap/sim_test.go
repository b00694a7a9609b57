package nodemap

import (
	"cmp"
	"container/heap"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock/disco"
)

// A simulation of nodes, a network and a relay as one queue of events in virtual
// time. It carries out the actions of real Maps and keeps books of what arrived.

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// testID returns an id that is only ever compared here.
func testID(b byte) (id identity.NodeID) {
	id[0], id[31] = b, b
	return id
}

func testURL(t testing.TB, s string) identity.RelayURL {
	t.Helper()
	u, err := identity.ParseRelayURL(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// txIDs returns a source of distinct transaction ids.
func txIDs(node byte) func() disco.TxID {
	var n uint64
	return func() (tx disco.TxID) {
		n++
		tx[0] = node
		binary.BigEndian.PutUint64(tx[4:], n)
		return tx
	}
}

// event is something that happens at a time.
type event struct {
	at  time.Time
	seq int
	run func()
}

type queue []event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return cmp.Or(q[i].at.Compare(q[j].at), cmp.Compare(q[i].seq, q[j].seq)) < 0
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *queue) Pop() any {
	old := *q
	e := old[len(old)-1]
	*q = old[:len(old)-1]
	return e
}

// sim is the world.
type sim struct {
	t     testing.TB
	now   time.Time
	seq   int
	queue queue
	nodes []*simNode

	relay      identity.RelayURL
	relayUp    bool
	relayDelay time.Duration
	delay      time.Duration // one way
	ticks      int
	// lag is the time a direct packet takes; nil means delay for all.
	lag func(from, to netip.AddrPort) time.Duration
	// drop loses a direct packet; nil loses none.
	drop func(from, to netip.AddrPort, size int) bool
}

// packet is what travels: a disco message or payload.
type packet struct {
	from    *simNode
	size    int
	ping    *disco.Ping
	pong    *disco.Pong
	call    *disco.CallMeMaybe
	payload int // number, from 1
	ack     bool
}

// simNode is a node with one socket, perhaps behind a NAT that lets only those
// in that were sent to.
type simNode struct {
	*sim
	m       *Map
	id      identity.NodeID
	local   netip.AddrPort // its address as others see it
	aliases []netip.AddrPort
	source  netip.AddrPort // answers leave from the address that was asked
	fixed   netip.AddrPort // all the rest from here, if set
	nat     bool
	mapping time.Duration // how long its NAT keeps a mapping without packets; 0: for ever
	opened  map[netip.AddrPort]time.Time
	tickAt  time.Time
	last    []packet
	numbers int

	got     map[int]time.Time // payload first arrivals
	sentAt  map[int]time.Time
	log     []Action
	logAt   []time.Time
	sends   []time.Time // every packet that left
	relayed int         // payload packets sent through the relay
	direct  int         // payload packets sent to a direct address
	cut     int         // payload packets sent there in halves
	payload int         // size of the packets of stream
}

func newSim(t testing.TB) *sim {
	return &sim{t: t, now: epoch, relay: testURL(t, "https://relay.example/"), relayDelay: 30 * time.Millisecond, delay: 10 * time.Millisecond}
}

func (s *sim) node(b byte, local string) *simNode {
	n := &simNode{
		sim: s, id: testID(b), local: netip.MustParseAddrPort(local),
		payload: 1200, opened: map[netip.AddrPort]time.Time{}, got: map[int]time.Time{}, sentAt: map[int]time.Time{},
	}
	n.m = New(Config{Self: n.id, NewTxID: txIDs(b), Peer: func(identity.NodeID) bool { return true }})
	n.m.SetOwnAddrs(s.now, []netip.AddrPort{n.local}, nil)
	s.nodes = append(s.nodes, n)
	return n
}

// at runs f after d.
func (s *sim) at(d time.Duration, f func()) {
	s.seq++
	heap.Push(&s.queue, event{s.now.Add(d), s.seq, f})
}

// run lets d pass.
func (s *sim) run(d time.Duration) {
	end := s.now.Add(d)
	s.ticks = 0
	for len(s.queue) > 0 && !s.queue[0].at.After(end) {
		e := heap.Pop(&s.queue).(event)
		s.now = e.at
		e.run()
		for _, n := range s.nodes {
			checkMap(s.t, n.m)
		}
	}
	s.now = end
	if limit := 100 + int(d.Seconds()*50)*len(s.nodes); s.ticks > limit {
		s.t.Fatalf("%d ticks in %v", s.ticks, d)
	}
}

// introduce makes a know b.
func (a *simNode) introduce(b *simNode, relay bool, direct ...netip.AddrPort) {
	addr := identity.NodeAddr{ID: b.id, Direct: direct}
	if relay {
		addr.Relay = a.relay
	}
	acts, err := a.m.Add(a.now, addr, SourceApp)
	if err != nil {
		a.t.Fatalf("Add: %v", err)
	}
	a.do(acts)
}

// do carries out actions and arms the timer.
func (a *simNode) do(acts []Action) {
	for _, act := range acts {
		a.log = append(a.log, act)
		a.logAt = append(a.logAt, a.now)
		p := packet{from: a, size: 124}
		switch act.Kind {
		case SendPing:
			p.ping = &disco.Ping{TxID: act.TxID}
			p.size = max(p.size, act.Size)
		case SendPong:
			p.pong = &disco.Pong{TxID: act.TxID, Src: act.Src.UDP, Relay: act.Src.Relay}
		case SendCallMeMaybe:
			p.call = &disco.CallMeMaybe{Addrs: []netip.AddrPort{a.local}}
		case Resend:
			for _, old := range a.last {
				a.payloadTo(act.Route, act.Node, old)
			}
			continue
		default:
			continue
		}
		a.send(act.To, act.Node, p)
	}
	a.arm()
}

// arm sets the timer as magicsock does.
func (a *simNode) arm() {
	next := a.m.Next()
	if next.IsZero() || (!a.tickAt.IsZero() && !next.Before(a.tickAt)) {
		return
	}
	a.tickAt = next
	a.at(max(0, next.Sub(a.now)), func() {
		if !a.tickAt.Equal(next) {
			return // a newer timer is set
		}
		a.tickAt = time.Time{}
		a.ticks++
		acts, n := a.m.Tick(a.now)
		if !n.IsZero() && !n.After(a.now) {
			a.t.Fatalf("Tick at %v wants to be called again at %v", a.now, n)
		}
		a.do(acts)
	})
}

// send puts a packet on its way.
func (a *simNode) send(to Addr, id identity.NodeID, p packet) {
	a.sends = append(a.sends, a.now)
	if !to.Relay.IsZero() {
		a.sendRelay(to, id, p)
		return
	}
	from := a.local
	if a.source.IsValid() {
		from = a.source
	}
	a.opened[to.UDP] = a.now
	if a.drop != nil && a.drop(from, to.UDP, p.size) {
		return
	}
	lag := a.delay
	if a.lag != nil {
		lag = a.lag(from, to.UDP)
	}
	a.at(lag, func() {
		for _, b := range a.nodes {
			if b.local != to.UDP && !slices.Contains(b.aliases, to.UDP) {
				continue
			}
			if at, open := b.opened[from]; b.nat && (!open || b.mapping > 0 && b.now.Sub(at) > b.mapping) {
				return
			}
			b.opened[from] = b.now
			b.source = to.UDP
			b.receive(UDPAddr(from), p)
			b.source = b.fixed
		}
	})
}

func (a *simNode) sendRelay(to Addr, id identity.NodeID, p packet) {
	if !a.relayUp {
		return
	}
	a.at(a.relayDelay, func() {
		for _, b := range a.nodes {
			if b.id == id && a.relayUp {
				b.receive(to, p)
			}
		}
	})
}

// receive takes a packet from the wire.
func (b *simNode) receive(from Addr, p packet) {
	switch {
	case p.ping != nil:
		b.do(b.m.HandlePing(b.now, p.from.id, from, p.ping.TxID, p.size))
	case p.pong != nil:
		b.do(b.m.HandlePong(b.now, p.from.id, from, p.pong))
	case p.call != nil:
		b.do(b.m.HandleCallMeMaybe(b.now, p.from.id, from.Relay, p.call.Addrs))
	default:
		mapped, ok := b.m.Received(b.now, from, p.from.id, p.size)
		b.arm()
		if !ok {
			return
		}
		if id, _ := b.m.NodeByMapped(mapped); id != p.from.id {
			b.t.Fatalf("payload of %v taken for that of %v", p.from.id, id)
		}
		if p.ack {
			return
		}
		if _, dup := b.got[p.payload]; !dup {
			b.got[p.payload] = b.now
		}
		b.route(p.from.id, packet{from: b, size: 60, ack: true})
	}
}

// route sends payload where the Map says.
func (a *simNode) route(id identity.NodeID, p packet) {
	r, acts := a.m.Route(a.now, a.m.byID[id].mapped, p.size, 1, false)
	a.do(acts)
	a.payloadTo(r, id, p)
	a.arm()
}

func (a *simNode) payloadTo(r Route, id identity.NodeID, p packet) {
	if r.Max > 0 && p.size > r.Max {
		a.large(r, id, p)
	} else if r.UDP.IsValid() {
		a.direct++
		a.send(UDPAddr(r.UDP), id, p)
	}
	if !r.Relay.IsZero() {
		a.relayed++
		a.send(RelayAddr(r.Relay), id, p)
	}
}

// large sends a packet that is too large for the path, as magicsock does.
func (a *simNode) large(r Route, id identity.NodeID, p packet) {
	switch half := (p.size+1)/2 + 5; {
	case r.Cut && half <= r.Max:
		a.cut++
		p.size = half // one stands for both
		a.send(UDPAddr(r.UDP), id, p)
	case !r.Wide.IsZero() && r.Wide != r.Relay:
		a.relayed++
		a.send(RelayAddr(r.Wide), id, p)
	}
}

// stream sends a numbered packet to b every gap for d; b acknowledges each.
func (a *simNode) stream(b *simNode, gap, d time.Duration) {
	end := a.now.Add(d)
	var step func()
	step = func() {
		a.numbers++
		a.sentAt[a.numbers] = a.now
		p := packet{from: a, size: a.payload, payload: a.numbers}
		a.last = append(a.last, p)
		a.last = a.last[max(0, len(a.last)-8):]
		a.route(b.id, p)
		if a.now.Add(gap).Before(end) {
			a.at(gap, step)
		}
	}
	a.at(0, step)
}

// gap returns the longest time between two arrivals at b from a time on.
func (b *simNode) gap(from, to time.Time) time.Duration {
	times := []time.Time{from, to}
	for _, at := range b.got {
		if at.After(from) && at.Before(to) {
			times = append(times, at)
		}
	}
	slices.SortFunc(times, time.Time.Compare)
	var longest time.Duration
	for i := 1; i < len(times); i++ {
		longest = max(longest, times[i].Sub(times[i-1]))
	}
	return longest
}

// conn returns the kind of path that a uses to b.
func (a *simNode) conn(b *simNode) ConnType {
	r, _ := a.m.Remote(a.now, b.id)
	return r.Conn
}

// changes returns the changes of path as text.
func (a *simNode) changes() (out []string) {
	for i, act := range a.log {
		if act.Kind == PathChanged {
			out = append(out, a.logAt[i].Sub(epoch).String()+" "+PathText(act.Before, act.BeforeRoute)+" → "+PathText(act.After, act.Route)+": "+string(act.Reason))
		}
	}
	return out
}

// checkMap checks what must hold between any two calls.
func checkMap(t testing.TB, m *Map) {
	t.Helper()
	if len(m.byID) != len(m.list) || len(m.bySlot) != len(m.list) {
		t.Fatalf("indexes disagree: %d ids, %d slots, %d nodes", len(m.byID), len(m.bySlot), len(m.list))
	}
	owned := 0
	for _, n := range m.list {
		if m.byID[n.id] != n || m.bySlot[n.slot] != n {
			t.Fatal("a node is not in its indexes")
		}
		if len(n.paths) > maxPaths || len(n.inflight) > maxInflight {
			t.Fatalf("%d paths, %d pings in flight", len(n.paths), len(n.inflight))
		}
		for _, p := range n.paths {
			o, ok := m.owners[p.addr]
			if p.owned != (ok && o.path == p) {
				t.Fatalf("%v: owned %v, index has it %v", p.addr, p.owned, ok)
			}
			if p.owned {
				owned++
				if o.node != n {
					t.Fatalf("%v belongs to another node", p.addr)
				}
			}
			if len(p.sources) > maxSources {
				t.Fatalf("%d sources", len(p.sources))
			}
		}
		if n.best != nil && n.path(n.best.addr) != n.best {
			t.Fatal("the address in use is not among the paths")
		}
		if c := n.choice; c.route.UDP.IsValid() && (n.best == nil || n.best.addr != c.route.UDP) && !c.fast.IsZero() {
			t.Fatalf("route %v is not the address in use", c.route.UDP)
		}
	}
	if owned != len(m.owners) {
		t.Fatalf("%d owned paths, %d entries", owned, len(m.owners))
	}
	if o := m.lastOwner; o.node != nil && m.owners[m.lastFrom] != o {
		t.Fatal("the cached owner is stale")
	}
}
