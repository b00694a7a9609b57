package magicsock

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock/fec"
	"github.com/nodetun/nodetun/magicsock/nodemap"
)

var (
	codingKeys = [2]fec.Key{{1}, {2}}
	addrOfA    = netip.MustParseAddrPort("192.0.2.1:41820")
	addrOfB    = netip.MustParseAddrPort("198.51.100.2:41820")
)

// codedPair is a node that sends coded packets to another, without sockets between them. Its timer
// sends parity only while send runs, or after release: all else is the test's.
type codedPair struct {
	t    testing.TB
	a, b *Conn
	out  *Coding // of a
	in   *Coding // of b
	wire func(packet []byte, ecn uint8)
	got  map[string]uint8 // what came to QUIC at b, with its ECN field
	once sync.Once        // release
}

func newCodedPair(t testing.TB) *codedPair {
	t.Helper()
	p := &codedPair{t: t, got: make(map[string]uint8)}
	for i, c := range []**Conn{&p.a, &p.b} {
		var err error
		if *c, err = New(loopbackConfig(byte(1 + i))); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { (*c).Close() })
	}
	p.wire = p.arrive
	p.a.write = func(b []byte, seg int, ecn uint8, to netip.AddrPort) error {
		if to != addrOfB {
			t.Errorf("sent to %v", to)
		}
		for ; len(b) > 0; b = b[min(seg, len(b)):] {
			p.wire(bytes.Clone(b[:min(seg, len(b))]), ecn)
		}
		return nil
	}
	p.out = p.a.Code(p.b.self, codingKeys[0], codingKeys[1])
	p.in = p.b.Code(p.a.self, codingKeys[1], codingKeys[0])
	t.Cleanup(p.out.Close)
	t.Cleanup(p.in.Close)
	p.out.Start()
	p.in.Start()
	p.out.sendMu.Lock()
	t.Cleanup(p.release)
	return p
}

func (p *codedPair) release() { p.once.Do(p.out.sendMu.Unlock) }

// send gives a batch to a as QUIC does.
func (p *codedPair) send(b []byte, seg int, ecn uint8) {
	p.t.Helper()
	p.out.sendMu.Unlock()
	defer p.out.sendMu.Lock()
	if err := p.out.send(time.Now(), b, seg, ecn, nodemap.Route{Node: p.b.self, UDP: addrOfB, Coded: true}); err != nil {
		p.t.Fatal(err)
	}
}

// arrive has a packet come to b from a's address.
func (p *codedPair) arrive(packet []byte, ecn uint8) {
	in := inbound{data: packet, seg: len(packet), from: nodemap.UDPAddr(addrOfA), ecn: ecn}
	p.b.paths.mu.Lock()
	in.peer = p.b.paths.peerLocked(p.b.paths.nodes.Mapped(p.a.self))
	p.b.paths.mu.Unlock()
	in.addrs = &in.peer.addrs[0]
	p.b.pc.cur = in
	for b, from, ecn := p.b.pc.nextQUIC(); b != nil; b, from, ecn = p.b.pc.nextQUIC() {
		if from != in.addrs[0] && from != in.addrs[1] {
			p.t.Errorf("a packet of %v", from)
		}
		p.got[string(b)] = ecn
	}
}

// packets makes n packets of a size, the last one shorter.
func packets(r *rand.Rand, n, size int) []byte {
	b := make([]byte, n*size-size/3)
	for i := range b {
		b[i] = byte(r.Uint32())
		if i%size == 0 {
			b[i] = 0x40 | b[i]&0x3f
		}
	}
	return b
}

// What is lost of batches of any size comes to QUIC all the same, with its ECN field, and what
// is not lost comes as it was.
func TestCodingRepairs(t *testing.T) {
	p := newCodedPair(t)
	r := rand.New(rand.NewPCG(1, 2))
	p.wire = func(packet []byte, ecn uint8) {
		if ecn != 1 {
			t.Errorf("ECN %d outside", ecn)
		}
		if r.Float64() > 0.02 {
			p.arrive(packet, ecn)
		}
	}
	sent, lost := 0, 0
	for range 400 {
		n, size := 1+r.IntN(14), 100+r.IntN(fec.MaxPacket-99)
		b := packets(r, n, size)
		p.send(b, size, 1)
		sent += n
		for ; len(b) > 0; b = b[min(size, len(b)):] {
			if ecn, ok := p.got[string(b[:min(size, len(b))])]; ok && ecn != 1 && ecn != congestionExperienced {
				t.Errorf("ECN %d inside", ecn)
			} else if !ok {
				lost++
			}
		}
	}
	info, _ := p.b.Coding(p.a.self)
	if info.Received.Repaired == 0 || len(p.got) < sent-20 { // the last block may not be full
		t.Errorf("%d of %d arrive, %d at once; %+v", len(p.got), sent, sent-lost, info)
	}
	if m := p.b.Metrics(); m.Repaired != info.Received.Repaired || m.RecvCoded == 0 || m.RecvParity == 0 {
		t.Errorf("counted %+v", m)
	}
}

// The parity of packets after which none follows leaves soon.
func TestCodingEndsShortBlocks(t *testing.T) {
	p := newCodedPair(t)
	parity := make(chan []byte, 64)
	p.wire = func(packet []byte, _ uint8) {
		if packet[0] == fec.KindParity {
			parity <- packet
		}
	}
	b := packets(rand.New(rand.NewPCG(1, 2)), 3, 1000)
	p.send(b, 1000, 0)
	p.release()
	for range 5 { // a block so short has no more
		packet := <-parity
		if packet[5] != 3 {
			t.Fatalf("a block of %d packets", packet[5])
		}
	}
}

// Congestion is told by ECN, and where QUIC does not use that by the loss of a packet in three round
// trips, unless QUIC misses the lost ones anyway.
func TestCodingTellsCongestion(t *testing.T) {
	p := newCodedPair(t)
	r := rand.New(rand.NewPCG(1, 2))
	signal := fec.Standing
	send := func(ecn uint8) (got uint8, ok bool) {
		t.Helper()
		clear(p.got)
		p.in.signal = signal
		b := packets(r, 1, 900)
		p.send(b, 900, ecn)
		got, ok = p.got[string(b)]
		return got, ok
	}
	if _, ok := send(0); !ok {
		t.Error("a packet is dropped for a queue that has not overflowed")
	}
	for signal = range fec.Congested + 1 {
		want := map[fec.Signal]uint8{fec.Clear: 1, fec.Standing: congestionExperienced, fec.Congested: congestionExperienced}[signal]
		if ecn, ok := send(1); !ok || ecn != want {
			t.Errorf("signal %d, with ECN: a packet comes %v, as %d", signal, ok, ecn)
		}
	}
	signal = fec.Congested
	if _, ok := send(0); ok {
		t.Error("without ECN: no packet is dropped")
	}
	if _, ok := send(0); !ok {
		t.Error("two packets are dropped in three round trips")
	}
	p.in.dropped = time.Time{}
	if _, ok := send(0); ok || p.b.Metrics().CodedDropped != 2 {
		t.Errorf("after three round trips no packet is dropped; %d are counted", p.b.Metrics().CodedDropped)
	}
	for range 300 {
		p.send(packets(r, 10, 300), 300, 0)
	}
	p.in.dropped = time.Time{}
	if info, _ := p.b.Coding(p.a.self); info.Wanted != 0 {
		t.Fatalf("%d parity packets are wanted on a clean path", info.Wanted)
	}
	if _, ok := send(0); !ok {
		t.Error("a packet is dropped where none is repaired")
	}
}

// A batch is coded by the newest connection that is open and whose keys the other side knows. While
// one begins that is one of before only if the other side was heard by it since: else it may have
// been started anew.
func TestWhatCodesABatch(t *testing.T) {
	p := newCodedPair(t)
	codings := func() *codings {
		p.a.paths.mu.Lock()
		defer p.a.paths.mu.Unlock()
		return &p.a.paths.peerLocked(p.a.paths.nodes.Mapped(p.b.self)).codings
	}()
	short, long := []byte("\x40short header"), []byte("\xc0long header")
	want := func(what string, b []byte, seg int, k *Coding) {
		t.Helper()
		if got := codings.forSending(b, seg); got != k {
			t.Errorf("%s: coded by %p, want %p", what, got, k)
		}
	}
	want("a connection that is up", short, len(short), p.out)
	want("a handshake", long, len(long), nil)
	want("a packet that is too large", short, fec.MaxPacket+1, nil)
	second := p.a.Code(p.b.self, fec.Key{3}, fec.Key{4})
	want("another connection begins", short, len(short), nil)
	second.Start()
	want("it is up", short, len(short), second)
	second.Close()
	want("it has ended", short, len(short), p.out)
	for i := range byte(20) {
		p.a.Code(p.b.self, fec.Key{5, i}, fec.Key{6, i}).Close()
	}
	want("20 more have ended", short, len(short), p.out)
	if n := len(codings.all()); n > maxCodings {
		t.Errorf("%d are known", n)
	}
}

// While a connection begins, packets are coded by the one before if the other side goes on with that.
// A copy of what it sent earlier does not say so: it may have been started anew.
func TestWhatCodesWhileAnotherBegins(t *testing.T) {
	p := newCodedPair(t)
	short := []byte("\x40short header")
	var left []byte
	p.wire = func(packet []byte, _ uint8) { left = packet }
	p.send(short, len(short), 0)
	p.arrive(left, 0)
	p.b.Code(p.a.self, fec.Key{3}, fec.Key{4})
	of := &p.b.paths.peerLocked(p.b.paths.nodes.Mapped(p.a.self)).codings
	for _, step := range []struct {
		what    string
		receive func()
		want    *Coding
	}{
		{"nothing came since", func() {}, nil},
		{"a copy came", func() { p.arrive(left, 0) }, nil},
		{"a packet came", func() { p.send(short, len(short), 0); p.arrive(left, 0) }, p.in},
		{"one more begins", func() { p.b.Code(p.a.self, fec.Key{5}, fec.Key{6}) }, nil},
	} {
		step.receive()
		if got := of.forSending(short, len(short)); got != step.want {
			t.Errorf("%s: coded by %p, want %p", step.what, got, step.want)
		}
	}
}

// Packets of a connection that only the other side takes to be up come to QUIC, which answers
// them by a reset; but not past one that is up here.
func TestCodedForARestartedNode(t *testing.T) {
	p := newCodedPair(t)
	var left [][]byte
	p.wire = func(packet []byte, _ uint8) { left = append(left, packet) }
	p.send([]byte("\x40of a connection that has ended"), 100, 0)
	for _, e := range p.b.paths.peers { // it was started anew
		e.codings.list.Store(nil)
	}
	p.arrive(left[0], 0)
	if len(p.got) != 1 {
		t.Error("nothing comes to QUIC")
	}
	p.b.Code(p.a.self, fec.Key{7}, fec.Key{8})
	clear(p.got)
	p.arrive(left[0], 0)
	if len(p.got) != 0 {
		t.Error("what no key opens came to QUIC")
	}
}

// S6, S8: who has an address but not the keys of its connection can take no packet's place, cannot
// make QUIC slow down, ask for parity or use memory; what a node sends is repaired all the same.
func TestForgedCodingDoesNothing(t *testing.T) {
	p := newCodedPair(t)
	r := rand.New(rand.NewPCG(1, 2))
	forger := fec.NewEncoder(fec.Key{9}, time.Now())
	forger.SetParity(fec.MaxParity)
	forge := func() {
		b := forger.Append(nil, time.Now(), packets(r, 1, 300), 1, uint8(r.IntN(fec.MaxParity+1)))
		p.arrive(b, congestionExperienced)
		for range 3 { // a number further on: a gap, if it counted
			b[1+r.IntN(4)]++
			p.arrive(b, congestionExperienced)
		}
		if forger.Full() {
			forger.Parity(func(parity []byte) { p.arrive(bytes.Clone(parity), 0) })
		}
	}
	var kept [][]byte // packets of a, to be sent again by the forger
	p.wire = func(packet []byte, ecn uint8) {
		forge()
		if len(kept) < 100 {
			kept = append(kept, bytes.Clone(packet))
		}
		if r.Float64() > 0.02 {
			p.arrive(packet, ecn)
		}
	}
	sent := make(map[string]bool)
	for range 300 {
		b := packets(r, 10, 600)
		for rest := b; len(rest) > 0; rest = rest[min(600, len(rest)):] {
			sent[string(rest[:min(600, len(rest))])] = true
		}
		p.send(b, 600, 1)
	}
	for _, packet := range kept { // a replay is QUIC's to drop
		p.arrive(packet, 1)
	}
	marked := 0
	for b, ecn := range p.got {
		if !sent[b] {
			t.Fatal("a forged packet came to QUIC")
		}
		if ecn == congestionExperienced {
			marked++
		}
	}
	info, _ := p.b.Coding(p.a.self)
	if len(p.got) < len(sent)-20 || marked > 0 || info.Asked > fec.MaxParity || info.Ours {
		t.Errorf("%d of %d arrive, %d with a mark; %+v", len(p.got), len(sent), marked, info)
	}
	if p.b.Metrics().BadCoded == 0 {
		t.Error("nothing was counted")
	}
}

// A peer that has the keys and says anything with them makes nothing come to QUIC that is not for
// QUIC, no more parity leave than there may, and no more be remembered than there may.
func TestHostileCodingIsBounded(t *testing.T) {
	p := newCodedPair(t)
	r := rand.New(rand.NewPCG(1, 2))
	hostile := fec.NewEncoder(codingKeys[0], time.Now())
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 20_000 {
		if r.IntN(50) == 0 {
			hostile.Restart() // far from the numbers before
		}
		hostile.SetParity(r.IntN(fec.MaxParity + 1))
		packet := packets(r, 1, 1+r.IntN(fec.MaxPacket))
		if r.IntN(2) == 0 {
			packet[0] = byte(r.Uint32())
		}
		if len(packet) > 8 && r.IntN(4) == 0 {
			copy(packet, "TS\xf0\x9f\x92\xac") // disco
		}
		b := hostile.Append(nil, time.Now().Add(time.Duration(r.IntN(1e10))), packet, uint8(r.IntN(4)), uint8(r.IntN(fec.MaxParity+1)))
		if r.IntN(3) > 0 {
			p.arrive(b, uint8(r.IntN(4)))
		}
		if hostile.Full() || r.IntN(10) == 0 {
			hostile.Parity(func(parity []byte) { p.arrive(bytes.Clone(parity), 0) })
		}
	}
	for b := range p.got {
		if !classify([]byte(b)).isQUIC() {
			t.Fatalf("% x came to QUIC", b[:min(len(b), 8)])
		}
	}
	clear(p.got)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grew := int64(after.HeapAlloc) - int64(before.HeapAlloc); grew > 3<<20 {
		t.Errorf("%d bytes are kept", grew)
	}
	if info, _ := p.b.Coding(p.a.self); info.Asked > fec.MaxParity || info.Wanted > fec.MaxParity {
		t.Errorf("%+v", info)
	}
}

// However many nodes lose packets, those of few are kept.
func TestRememberingIsBounded(t *testing.T) {
	c, err := New(loopbackConfig(1))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var all []*Coding
	for i := range byte(2 * maxRemembering) {
		k := c.Code(testKey(10+i).NodeID(), codingKeys[0], codingKeys[1])
		all = append(all, k)
		b := fec.NewEncoder(codingKeys[1], time.Now()).Append(nil, time.Now(), []byte("\x40abc"), 0, 0)
		k.receive(time.Now(), b, 0, nil)
	}
	if n := c.remembering.Load(); n != maxRemembering {
		t.Errorf("%d remember, want %d", n, maxRemembering)
	}
	for _, k := range all {
		k.Close()
	}
	if n := c.remembering.Load(); n != 0 {
		t.Errorf("%d remember at the end", n)
	}
}

// Coded packets come by UDP alone: a relay has no part in it.
func TestCodedByRelayIsDropped(t *testing.T) {
	p := newCodedPair(t)
	url, err := identity.ParseRelayURL("https://relay.example.org")
	if err != nil {
		t.Fatal(err)
	}
	p.wire = func(packet []byte, _ uint8) {
		in := inbound{data: packet, seg: len(packet), from: nodemap.RelayAddr(url), src: p.a.self}
		if p.b.sort(&in) {
			t.Error("taken")
		}
	}
	p.send([]byte("\x40by a relay"), 100, 0)
	if p.b.Metrics().RecvGarbage == 0 {
		t.Error("not counted")
	}
}
