package magicsock

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock/fec"
	"github.com/nodetun/nodetun/magicsock/nodemap"
	"github.com/nodetun/nodetun/magicsock/udpconn"
)

const (
	// maxCodings is how many of a node are known: those of two connections by turns, and of some
	// that have ended, whose last packets may still come.
	maxCodings = 4
	// maxRemembering is how many keep the packets that come, for repairs: 1.9 MB each.
	maxRemembering = 16
	// rememberFor is how long they do so while nothing comes.
	rememberFor = time.Minute
)

// Coding hides the random loss of direct paths to a node from QUIC (package fec). The two ends of
// one connection have the same keys; the packets of all connections with the node are coded by
// the newest of them.
type Coding struct {
	c    *Conn
	node identity.NodeID

	open    atomic.Bool   // neither end has closed it
	sending atomic.Bool   // the other side opens what is sent
	heard   atomic.Bool   // a packet came since the newest was made
	wanted  atomic.Uint32 // parity packets of a full block that we want,
	asked   atomic.Uint32 // and that we are asked for
	latency atomic.Int64  // of the path
	more    chan struct{} // holds one: repairs began, or there are to be more of them

	sent struct {
		data, parity atomic.Uint64 // packets
	}

	sendMu sync.Mutex // guards the fields below
	enc    *fec.Encoder
	out    codedBatch
	to     destination // of the last packet
	timer  *time.Timer // sends the parity of a block that does not become full
	armed  bool

	recvMu      sync.Mutex // guards the fields below
	dec         *fec.Decoder
	est         *fec.Estimator
	signal      fec.Signal // to be told to QUIC
	dropped     time.Time  // when that was done by the loss of a packet,
	drops       uint64     // and how many were
	remembering bool
	last        time.Time   // when a packet came
	quiet       *time.Timer // ends remembering
}

// CodingInfo tells how packets to and from a node are coded.
type CodingInfo struct {
	// Wanted and Asked are how many parity packets follow each 64: those that come, and those
	// that leave.
	Wanted, Asked int
	// Loss is the part of the packets that is lost on the way here at random, 0 to 1.
	Loss float64
	// Ours says that loss on the way here comes with the rate of the sender: nothing is hidden
	// then.
	Ours bool
	// SentData and SentParity count packets since the connection began, Received those that came.
	SentData, SentParity uint64
	Received             fec.Stats
	// Dropped counts those that came and were dropped to tell QUIC of a full queue.
	Dropped uint64
}

// CodingKey is that of the tags of one direction.
type CodingKey = fec.Key

// Code makes what codes packets with a node by the keys of a connection with it. What comes is
// understood from now on; Start begins to send.
func (c *Conn) Code(id identity.NodeID, send, receive CodingKey) *Coding {
	now := time.Now()
	k := &Coding{c: c, node: id, more: make(chan struct{}, 1), enc: fec.NewEncoder(send, now), dec: fec.NewDecoder(receive, now), est: fec.NewEstimator(now)}
	k.est.Guard(!c.cfg.FECUnguarded)
	k.out.k = k
	k.open.Store(true)
	k.wanted.Store(uint32(k.est.Want()))
	k.asked.Store(uint32(k.est.Want())) // until it is known
	c.paths.code(id, k)
	return k
}

// Start says that the other side has Code called, too.
func (k *Coding) Start() {
	k.sending.Store(true)
	k.tellMore()
}

// More yields when loss begins to be repaired, or much more of it: what was lost before has slowed
// QUIC down for nothing.
func (k *Coding) More() <-chan struct{} { return k.more }

func (k *Coding) tellMore() {
	select {
	case k.more <- struct{}{}:
	default:
	}
}

// Close ends the sending. What is under way is still understood.
func (k *Coding) Close() {
	k.open.Store(false)
	k.sendMu.Lock()
	k.enc.Restart()
	if k.timer != nil {
		k.timer.Stop()
	}
	k.sendMu.Unlock()
	k.recvMu.Lock()
	k.forget()
	k.recvMu.Unlock()
}

// Coding tells how packets with a node are coded; false if they are not.
func (c *Conn) Coding(id identity.NodeID) (CodingInfo, bool) {
	k := c.paths.codingOf(id)
	if k == nil || !k.sending.Load() {
		return CodingInfo{}, false
	}
	k.recvMu.Lock()
	defer k.recvMu.Unlock()
	return CodingInfo{
		Wanted: int(k.wanted.Load()), Asked: int(k.asked.Load()), Loss: k.est.Loss(), Ours: k.est.Ours(),
		SentData: k.sent.data.Load(), SentParity: k.sent.parity.Load(), Received: k.dec.Stats(), Dropped: k.drops,
	}, true
}

// codings are those of one node, the newest first. The zero value has none.
type codings struct{ list atomic.Pointer[[]*Coding] }

// all returns them.
func (s *codings) all() []*Coding {
	if list := s.list.Load(); list != nil {
		return *list
	}
	return nil
}

// newest returns the newest that is open, nil for none.
func (s *codings) newest() *Coding {
	for _, k := range s.all() {
		if k.open.Load() {
			return k
		}
	}
	return nil
}

// forSending returns what a batch of QUIC is to be coded by, nil for nothing. While a
// connection begins it is one of before that the peer was heard by since: one that was started
// anew does not know it.
func (s *codings) forSending(b []byte, seg int) *Coding {
	const longHeader = 0x80
	if seg > fec.MaxPacket || b[0]&longHeader != 0 {
		return nil
	}
	newest := true
	for _, k := range s.all() {
		if !k.open.Load() {
			continue
		}
		if k.sending.Load() && (newest || k.heard.Load()) {
			return k
		}
		newest = false
	}
	return nil
}

// code adds one to those of its node.
func (p *paths) code(id identity.NodeID, k *Coding) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.peerLocked(p.nodes.Mapped(id))
	if e == nil {
		return
	}
	list := append([]*Coding{k}, e.codings.all()...)
	for _, old := range list {
		old.heard.Store(false)
	}
	for len(list) > maxCodings {
		last := len(list) - 1
		for i, old := range list {
			if !old.open.Load() {
				last = i
			}
		}
		list = slices.Delete(list, last, last+1)
	}
	e.codings.list.Store(&list)
}

// codingOf returns the newest of a node that is open, nil for none.
func (p *paths) codingOf(id identity.NodeID) *Coding {
	p.mu.Lock()
	defer p.mu.Unlock()
	mapped, _ := p.nodes.MappedOf(id)
	if e, ok := p.peers[mapped]; ok {
		return e.codings.newest()
	}
	return nil
}

// send sends a batch of QUIC packets, and the parity that is due with it.
func (k *Coding) send(now time.Time, b []byte, seg int, ecn uint8, r nodemap.Route) error {
	k.sendMu.Lock()
	defer k.sendMu.Unlock()
	if k.to.to != r.UDP {
		k.enc.Restart()
	}
	k.to = destination{to: r.UDP, node: r.Node, ecn: ecn}
	k.latency.Store(int64(r.Latency))
	k.enc.SetLatency(r.Latency)
	want := uint8(k.wanted.Load())
	for len(b) > 0 {
		packet := b[:min(seg, len(b))]
		b = b[len(packet):]
		k.enc.SetParity(int(k.asked.Load()))
		k.out.room(fec.HeaderLen + len(packet))
		k.out.buf = k.enc.Append(k.out.buf, now, packet, ecn, want)
		k.sent.data.Add(1)
		k.c.stats.sentCoded.Add(1)
		if k.enc.Full() {
			k.sendParity()
		}
	}
	k.arm(now)
	return k.out.flush()
}

// sendParity puts the parity of the block behind what is to be sent.
func (k *Coding) sendParity() {
	k.enc.Parity(func(packet []byte) {
		k.out.room(len(packet))
		k.out.buf = append(k.out.buf, packet...)
		k.sent.parity.Add(1)
		k.c.stats.sentParity.Add(1)
	})
}

// arm sees to it that the parity of the block leaves though no packet follows. sendMu is held.
func (k *Coding) arm(now time.Time) {
	due := k.enc.Due()
	if k.armed || due.IsZero() {
		return
	}
	k.armed = true
	if wait := due.Sub(now); k.timer == nil {
		k.timer = time.AfterFunc(wait, k.expired)
	} else {
		k.timer.Reset(wait)
	}
}

// expired is called by the timer.
func (k *Coding) expired() {
	k.sendMu.Lock()
	defer k.sendMu.Unlock()
	k.armed = false
	if !k.open.Load() {
		return
	}
	now := time.Now()
	if due := k.enc.Due(); !due.IsZero() && !now.Before(due) {
		k.sendParity()
		_ = k.out.flush() // the error of a closed Conn is nobody's concern here
	}
	k.arm(now)
}

// codedBatch gathers packets that leave in one send: of one size, but for the last.
type codedBatch struct {
	k     *Coding
	buf   []byte
	size  int // of the first packet
	count int
	short bool // the last one was smaller
	err   error
}

// room sees to it that a packet of a size can be appended.
func (o *codedBatch) room(size int) {
	if o.count > 0 && (o.short || size > o.size || o.count >= udpconn.MaxSegments || len(o.buf)+size > udpconn.MaxSend) {
		o.write()
	}
	if o.count == 0 {
		o.size = size
	}
	o.count++
	o.short = size < o.size
}

// write sends what was gathered.
func (o *codedBatch) write() {
	d := o.k.to
	d.seg = o.size
	if err := o.k.c.out.write(o.buf, d); err != nil {
		o.err = err
	}
	o.buf, o.count, o.short = o.buf[:0], 0, false
}

// flush sends what is left, and returns the error of any of the sends.
func (o *codedBatch) flush() error {
	if o.count > 0 {
		o.write()
	}
	err := o.err
	o.err = nil
	return err
}

// decode takes a coded packet that came by UDP from a node, and returns the QUIC packet in it,
// nil for parity and for what does not open. What can be repaired now is given to repaired.
// While there is no connection with the node, packets are those of one that it takes to be up:
// QUIC is to answer them by a reset.
func (c *Conn) decode(in *inbound, b []byte, repaired func([]byte, uint8)) (packet []byte, ecn uint8) {
	for _, k := range in.peer.codings.all() {
		if packet, ecn, ok := k.receive(time.Now(), b, in.ecn, repaired); ok {
			return packet, ecn
		}
	}
	c.stats.badCoded.Add(1)
	if in.peer.codings.newest() == nil {
		return fec.Inside(b), 0
	}
	return nil, 0
}

// congestionExperienced is the ECN field by which the network tells of a full queue, and so does
// the estimator (RFC 3168).
const congestionExperienced = 3

// receive is decode by one of the codings; ok is false if the packet is none of its.
func (k *Coding) receive(now time.Time, b []byte, outer uint8, repaired func([]byte, uint8)) (packet []byte, ecn uint8, ok bool) {
	k.recvMu.Lock()
	defer k.recvMu.Unlock()
	before := k.dec.Stats()
	if b[0] == fec.KindParity {
		if k.dec.Parity(b, repaired) != nil {
			return nil, 0, false
		}
		k.c.stats.recvParity.Add(1)
		k.c.stats.repaired.Add(k.dec.Stats().Repaired - before.Repaired)
		return nil, 0, true
	}
	a, err := k.dec.Data(b, repaired)
	if err != nil {
		return nil, 0, false
	}
	k.c.stats.recvCoded.Add(1)
	k.c.stats.repaired.Add(k.dec.Stats().Repaired - before.Repaired)
	if before := k.asked.Swap(uint32(a.Want)); uint32(a.Want) >= 4*before+4 {
		k.tellMore()
	}
	k.last = now
	if a.Newest { // no copy of an earlier one
		k.heard.Store(true)
	}
	k.est.SetLatency(now, time.Duration(k.latency.Load()))
	if !a.Stray {
		k.signal = max(k.signal, k.est.Arrived(now, &a))
	}
	k.wanted.Store(uint32(k.est.Want()))
	k.remember(k.est.Want() > 0)
	ecn = a.ECN
	switch {
	case k.signal == fec.Clear && outer != congestionExperienced:
	case ecn != 0:
		ecn, k.signal = congestionExperienced, fec.Clear
	case k.signal == fec.Standing || k.est.Want() == 0:
		k.signal = fec.Clear // it would cost a packet, or QUIC misses the lost one itself
	case k.signal == fec.Congested && now.Sub(k.dropped) >= max(dropGap*time.Duration(k.latency.Load()), leastDropGap):
		// As a router does with what cannot be marked: quic-go gives ECN up for good when a
		// connection has looked at another path.
		k.signal, k.dropped = fec.Clear, now
		k.drops++
		k.c.stats.codedDropped.Add(1)
		return nil, 0, true
	}
	return a.Packet, ecn, true
}

// dropGap is how many round trips are between packets that are dropped to tell of congestion, and
// leastDropGap how much time at least: QUIC notices one after up to two, and the queue is shorter half
// a one later.
const (
	dropGap      = 3
	leastDropGap = 60 * time.Millisecond
)

// remember keeps the packets that come, if there is room for those of one more. recvMu is held.
func (k *Coding) remember(on bool) {
	switch {
	case on == k.remembering:
	case !on:
		k.forget()
	case k.open.Load() && k.c.remembering.Add(1) <= maxRemembering:
		k.remembering = true
		k.dec.Remember(true)
		k.quiet = time.AfterFunc(rememberFor, k.expire)
	case k.open.Load():
		k.c.remembering.Add(-1)
	}
}

// forget ends that. recvMu is held.
func (k *Coding) forget() {
	if !k.remembering {
		return
	}
	k.remembering = false
	k.dec.Remember(false)
	k.quiet.Stop()
	k.c.remembering.Add(-1)
}

// expire ends remembering when nothing has come for long.
func (k *Coding) expire() {
	k.recvMu.Lock()
	defer k.recvMu.Unlock()
	if !k.remembering {
		return
	}
	if left := rememberFor - time.Since(k.last); left > 0 {
		k.quiet.Reset(left)
		return
	}
	k.forget()
}

// repairs are packets that were put together, until QUIC takes them. The zero value is empty.
type repairs struct {
	list []repair
	next int
}

type repair struct {
	data []byte
	ecn  uint8
}

// put copies a packet.
func (r *repairs) put(packet []byte, ecn uint8) {
	if len(r.list) < cap(r.list) {
		r.list = r.list[:len(r.list)+1]
	} else {
		r.list = append(r.list, repair{})
	}
	e := &r.list[len(r.list)-1]
	e.data, e.ecn = append(e.data[:0], packet...), ecn
}

// take returns the next one, valid until the next put; nil if there is none.
func (r *repairs) take() (packet []byte, ecn uint8) {
	if r.next == len(r.list) {
		r.list, r.next = r.list[:0], 0
		return nil, 0
	}
	e := &r.list[r.next]
	r.next++
	return e.data, e.ecn
}
