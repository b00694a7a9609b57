package magicsock

import (
	"container/list"
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock/disco"
	"github.com/nodetun/nodetun/magicsock/nodemap"
	"github.com/nodetun/nodetun/magicsock/udpconn"
)

const (
	discoQueue = 256  // messages waiting to be opened
	keyCache   = 4096 // shared keys kept (S6)
	heldMax    = 8    // receives that wait for a disco message before them

	// Box openings for strangers of an open endpoint (S6).
	strangerRate    = 200 // a second
	strangerNetRate = 20  // a second for each /24 or /56
)

// discoIO receives disco messages: offer decides who may speak, in the
// goroutine that read the packet and without any curve arithmetic, run opens
// what was admitted.
type discoIO struct {
	c     *Conn
	queue chan discoPacket
	keys  keyring

	mu      sync.Mutex             // guards the fields below
	queued  map[netip.AddrPort]int // messages in the queue or being opened, by UDP source
	held    []inbound
	known   map[identity.NodeID]struct{} // nodes that are no strangers to an open endpoint
	sweep   int                          // size of known at which to look for stale ones
	limiter strangerLimit
}

type discoPacket struct {
	sender identity.NodeID
	from   nodemap.Addr
	data   []byte
	via    *extra        // the extra socket it came to; nil for the others
	local  udpconn.Local // where it came to, by UDP
}

func newDiscoIO(c *Conn) *discoIO {
	return &discoIO{
		c: c, queue: make(chan discoPacket, discoQueue),
		keys:  keyring{own: c.cfg.Key, entries: make(map[identity.NodeID]*list.Element)},
		known: make(map[identity.NodeID]struct{}), queued: make(map[netip.AddrPort]int), sweep: firstSweep,
	}
}

// offerVia takes a disco packet that came to an extra socket.
func (d *discoIO) offerVia(b []byte, from nodemap.Addr, via *extra) {
	d.take(discoPacket{from: from, data: b, via: via}, identity.NodeID{})
}

// offer takes a disco packet, of which b is not kept. relaySrc is the sender
// that the relay named, zero by UDP.
func (d *discoIO) offer(b []byte, from nodemap.Addr, relaySrc identity.NodeID, local udpconn.Local) {
	d.take(discoPacket{from: from, data: b, local: local}, relaySrc)
}

// take queues what may be opened. S6: somebody who is not admitted costs a look
// at the key in clear text and nothing else. The bytes of p are copied.
func (d *discoIO) take(p discoPacket, relaySrc identity.NodeID) {
	stats := &d.c.stats
	stats.recvDisco.Add(1)
	if !disco.Is(p.data) {
		stats.recvGarbage.Add(1)
		return
	}
	p.sender = disco.Sender(p.data)
	switch {
	case p.sender == d.c.self, !relaySrc.IsZero() && relaySrc != p.sender:
		stats.recvGarbage.Add(1)
		return
	case !d.c.admit(p.sender), !d.allowStranger(p.sender, p.from):
		stats.notAdmitted.Add(1)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	p.data = slices.Clone(p.data)
	select {
	case d.queue <- p:
		d.queued[p.from.UDP]++
	default:
		stats.discoDropped.Add(1)
	}
}

// hold keeps a receive of an address that no node owns, if a disco message
// from there is about to be opened: a dialler's first ping and its first QUIC
// packet come together, and only the ping says who it is. The bytes are copied.
func (d *discoIO) hold(in *inbound) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.queued[in.from.UDP] == 0 || len(d.held) >= heldMax {
		return false
	}
	kept := *in
	kept.held = true
	kept.buf = d.c.inbox.buffer()
	kept.data = kept.buf[:copy(kept.buf, in.data)]
	d.held = append(d.held, kept)
	return true
}

// done ends the wait of what was held for a message from that address.
func (d *discoIO) done(from netip.AddrPort) {
	d.mu.Lock()
	if d.queued[from]--; d.queued[from] <= 0 {
		delete(d.queued, from)
	}
	var ready []inbound
	for i := 0; i < len(d.held); {
		if d.held[i].from.UDP != from {
			i++
			continue
		}
		ready = append(ready, d.held[i])
		d.held = slices.Delete(d.held, i, i+1)
	}
	d.mu.Unlock()
	for _, in := range ready {
		d.c.enqueue(in)
	}
}

// allowStranger applies the limits of an open endpoint.
func (d *discoIO) allowStranger(sender identity.NodeID, from nodemap.Addr) bool {
	if d.c.cfg.Admit != nil || d.c.cfg.Paired != nil && d.c.cfg.Paired(sender) {
		return true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.known[sender]; ok {
		return true
	}
	return d.limiter.allow(time.Now(), from.UDP.Addr())
}

// know exempts a node from the limits for strangers, as long as the node map
// knows it.
func (d *discoIO) know(id identity.NodeID) {
	if d.c.cfg.Admit != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.known[id] = struct{}{}
	if len(d.known) < d.sweep {
		return
	}
	for id := range d.known {
		if !d.c.paths.knows(id) {
			delete(d.known, id)
		}
	}
	d.sweep = max(firstSweep, 2*len(d.known))
}

func (d *discoIO) forget(id identity.NodeID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.known, id)
}

// run opens and answers until ctx ends.
func (d *discoIO) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case p := <-d.queue:
			d.handle(p)
			d.done(p.from.UDP)
		}
	}
}

// handle opens one packet and tells the node map.
func (d *discoIO) handle(p discoPacket) {
	stats := &d.c.stats
	key, err := d.keys.get(p.sender)
	if err != nil {
		stats.badKey.Add(1)
		return
	}
	message, err := disco.Open(&key, p.data)
	if err != nil {
		stats.badDisco.Add(1)
		d.c.log.Debug("disco", "from", p.from, "err", err)
		return
	}
	if p.from.UDP.IsValid() && !d.c.tunnels.usable(p.from.UDP) {
		return
	}
	now := time.Now()
	if p.via != nil {
		d.c.punch.adopt(p.via)
	}
	if _, ok := message.(*disco.Ping); ok && p.from.UDP.IsValid() && p.via == nil {
		d.c.answers.arrived(p.from.UDP, p.local)
	}
	landed := false
	d.c.perform(d.c.paths.do(func(m *nodemap.Map) []nodemap.Action {
		switch message := message.(type) {
		case *disco.Ping:
			stats.recvPing.Add(1)
			return m.HandlePing(now, p.sender, p.from, message.TxID, len(p.data))
		case *disco.Pong:
			stats.recvPong.Add(1)
			acts := m.HandlePong(now, p.sender, p.from, message)
			landed = m.Landed()
			return acts
		case *disco.CallMeMaybe:
			stats.recvCallMeMaybe.Add(1)
			return m.HandleCallMeMaybe(now, p.sender, p.from.Relay, message.Addrs)
		}
		return nil
	}))
	if pong, ok := message.(*disco.Pong); ok && landed {
		d.c.addrs.look(partAgreed)
		if p.from.UDP.IsValid() && pong.Src.IsValid() && p.via == nil {
			d.c.survey.checker.Observe(p.from.UDP, pong.Src, now)
		}
	}
}

// keyring keeps the shared keys of the nodes spoken to last. Making one costs
// a curve operation, some 50 µs.
type keyring struct {
	own *identity.SecretKey

	mu      sync.Mutex // guards the fields below
	entries map[identity.NodeID]*list.Element
	order   list.List // of *keyEntry, the last used first
}

type keyEntry struct {
	node identity.NodeID
	key  disco.SharedKey
}

// get finds or makes the key shared with a node.
func (k *keyring) get(node identity.NodeID) (disco.SharedKey, error) {
	k.mu.Lock()
	if e, ok := k.entries[node]; ok {
		k.order.MoveToFront(e)
		key := e.Value.(*keyEntry).key
		k.mu.Unlock()
		return key, nil
	}
	k.mu.Unlock()

	key, err := disco.NewSharedKey(k.own, node)
	if err != nil {
		return key, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.entries[node]; ok { // somebody else was faster
		return key, nil
	}
	k.entries[node] = k.order.PushFront(&keyEntry{node: node, key: key})
	if k.order.Len() > keyCache {
		oldest := k.order.Remove(k.order.Back()).(*keyEntry)
		delete(k.entries, oldest.node)
	}
	return key, nil
}

// strangerLimit counts what strangers were allowed in the present second.
type strangerLimit struct {
	second int64
	total  int
	nets   map[netip.Prefix]int
}

// allow takes one from the budget of the network, then from that of all. Only
// what was allowed is counted, so that nets stays as small as the budget.
func (l *strangerLimit) allow(now time.Time, addr netip.Addr) bool {
	if s := now.Unix(); s != l.second {
		l.second, l.total = s, 0
		clear(l.nets)
	}
	var net netip.Prefix // that of all relays together is the zero one
	if addr.Is4() {
		net, _ = addr.Prefix(24)
	} else if addr.IsValid() {
		net, _ = addr.WithZone("").Prefix(56)
	}
	limit := strangerNetRate
	if !net.IsValid() {
		limit = strangerRate
	}
	if l.total >= strangerRate || l.nets[net] >= limit {
		return false
	}
	if l.nets == nil {
		l.nets = make(map[netip.Prefix]int)
	}
	l.total++
	l.nets[net]++
	return true
}
