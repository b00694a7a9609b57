package magicsock

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/net/ipv4"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock/disco"
	"github.com/nodetun/nodetun/magicsock/fec"
	"github.com/nodetun/nodetun/magicsock/nodemap"
)

// drain reads the PacketConn as QUIC would, until it is closed, and hands on
// what comes.
func drain(t testing.TB, c *Conn) <-chan []byte {
	t.Helper()
	packets := make(chan []byte, 1024)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ms := batchOf(8)
		for {
			n, err := c.PacketConn().ReadBatch(ms, 0)
			if err != nil {
				return
			}
			for _, m := range ms[:n] {
				select {
				case packets <- bytes.Clone(m.Buffers[0][:m.N]):
				default:
				}
			}
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	return packets
}

func batchOf(n int) []ipv4.Message {
	ms := make([]ipv4.Message, n)
	for i := range ms {
		ms[i].Buffers = [][]byte{make([]byte, 1452)}
		ms[i].OOB = make([]byte, 128)
	}
	return ms
}

// pingFrom is a disco ping of a node to another.
func pingFrom(t testing.TB, key *identity.SecretKey, to identity.NodeID) []byte {
	t.Helper()
	shared, err := disco.NewSharedKey(key, to)
	if err != nil {
		t.Fatal(err)
	}
	return disco.Append(nil, key.NodeID(), &shared, &disco.Ping{TxID: disco.TxID{1}, Node: key.NodeID()})
}

// waitFor polls a condition that other goroutines bring about.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// S6: pings of nodes that are not admitted, many thousand a second, draw no
// answer and keep no memory, and a peer's ping in between is answered.
func TestStrangersDrawSilence(t *testing.T) {
	peer := testKey(9)
	cfg := loopbackConfig(1)
	cfg.Admit = func(id identity.NodeID) bool { return id == peer.NodeID() }
	c := start(t, cfg)
	drain(t, c.Conn)

	attacker := listenUDP(t)
	to, _ := c.LocalAddrs()
	var pings [][]byte
	for seed := range byte(50) {
		pings = append(pings, pingFrom(t, testKey(100+seed), c.id))
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const total = 20000
	began := time.Now()
	for i := range total {
		if _, err := attacker.WriteToUDPAddrPort(pings[i%len(pings)], to); err != nil {
			t.Fatal(err)
		}
		if i%500 == 0 { // the socket's buffer is not the subject
			want := uint64(i)
			waitFor(t, "reading", func() bool { return c.Metrics().RecvDisco+c.Metrics().UDP4.Truncated >= want/2 })
		}
	}
	rate := total / time.Since(began).Seconds()
	waitFor(t, "the flood's end", func() bool { return c.Metrics().NotAdmitted > total/2 })
	runtime.GC()
	runtime.ReadMemStats(&after)

	m := c.Metrics()
	if m.UDP4.TxPackets+m.UDP6.TxPackets != 0 || m.SentPing+m.SentPong != 0 {
		t.Errorf("answered strangers: %+v", m)
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 1<<20 {
		t.Errorf("heap grew by %d bytes", grown)
	}
	if n := len(c.Remotes()); n != 0 {
		t.Errorf("%d nodes are remembered", n)
	}
	if n := c.disco.keys.size(); n != 0 {
		t.Errorf("%d shared keys were computed", n)
	}
	t.Logf("%.0f pings/s of strangers, %d counted", rate, m.NotAdmitted)

	if _, err := attacker.WriteToUDPAddrPort(pingFrom(t, peer, c.id), to); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "an answer to a peer", func() bool { return c.Metrics().SentPong == 1 })
}

// S6 on an open endpoint: strangers are answered within limits.
func TestOpenEndpointLimitsStrangers(t *testing.T) {
	var l strangerLimit
	now := time.Unix(1000, 0)
	allowed := 0
	for i := range 1000 { // one network
		addr := netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
		if l.allow(now, addr) {
			allowed++
		}
	}
	if allowed != strangerNetRate {
		t.Errorf("%d of one /24, want %d", allowed, strangerNetRate)
	}
	for i := range 100000 { // all networks
		addr := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		if l.allow(now, addr) {
			allowed++
		}
	}
	if allowed != strangerRate {
		t.Errorf("%d in all, want %d", allowed, strangerRate)
	}
	if len(l.nets) > strangerRate {
		t.Errorf("%d networks are remembered", len(l.nets))
	}
	v6 := netip.MustParseAddr("2001:db8:0:1::1")
	if !l.allow(now.Add(time.Second), v6) {
		t.Error("nothing allowed in the next second")
	}
}

func TestOpenEndpointAnswersStranger(t *testing.T) {
	c := start(t, loopbackConfig(1))
	drain(t, c.Conn)
	stranger := listenUDP(t)
	to, _ := c.LocalAddrs()
	if _, err := stranger.WriteToUDPAddrPort(pingFrom(t, testKey(77), c.id), to); err != nil {
		t.Fatal(err)
	}
	stranger.SetReadDeadline(time.Now().Add(time.Minute))
	b := make([]byte, 2048)
	n, err := stranger.Read(b)
	if err != nil || !disco.Is(b[:n]) {
		t.Errorf("answer: %d bytes, %v", n, err)
	}
}

// S8: payload of a node that comes from another address, and disco of it that
// somebody replays from there, moves nothing.
func TestForgedSourceMovesNothing(t *testing.T) {
	cfg, changes := watchPath(loopbackConfig(1))
	a, b := start(t, cfg), start(t, loopbackConfig(2))
	drain(t, a.Conn)
	got := drain(t, b.Conn)
	meet(t, a, b)
	establish(t, a, b, changes)
	const forged = 0x41
	attacker := listenUDP(t)
	to, _ := b.LocalAddrs()
	before := b.Metrics().UnknownSource
	for range 20 {
		if _, err := attacker.WriteToUDPAddrPort(quicPacket(1200, forged), to); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "the forged packets", func() bool { return b.Metrics().UnknownSource >= before+20 })
	if _, err := attacker.WriteToUDPAddrPort(pingFrom(t, testKey(1), b.id), to); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the replayed ping", func() bool { return b.Metrics().SentPong >= 1 })
	info, _ := b.Remote(a.id)
	want, _ := a.LocalAddrs()
	if info.Conn == nodemap.ConnDirect && info.UDP != want {
		t.Errorf("the path moved to %v", info.UDP)
	}
	for len(got) > 0 {
		if p := <-got; p[0] == forged {
			t.Errorf("a forged packet reached QUIC: %x", p[:8])
		}
	}
}

// quicPacket is n bytes that begin as a QUIC packet with a short header.
func quicPacket(n int, first byte) []byte {
	b := make([]byte, n)
	b[0] = first
	return b
}

// establish sends packets from a to b until the path is direct.
func establish(t testing.TB, a, b *testNode, changes <-chan PathChange) {
	t.Helper()
	addr := a.MappedAddr(b.id)
	deadline := time.After(time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := a.PacketConn().WriteTo(quicPacket(100, 0x40), addr); err != nil {
			t.Fatal(err)
		}
		select {
		case p := <-changes:
			if p.Node == b.id && p.After == nodemap.ConnDirect {
				return
			}
		case <-tick.C:
		case <-deadline:
			t.Fatal("no direct path within 10 s")
		}
	}
}

// Garbage of every first byte and size is counted and dropped.
func TestGarbage(t *testing.T) {
	c := start(t, loopbackConfig(1))
	got := drain(t, c.Conn)
	var senders []*net.UDPConn
	for range 4 {
		senders = append(senders, listenUDP(t))
	}
	to, _ := c.LocalAddrs()
	random := rand.New(rand.NewPCG(1, 2))
	magic := pingFrom(t, testKey(5), c.id)
	sent := 0
	send := func(b []byte) {
		if _, err := senders[sent%len(senders)].WriteToUDPAddrPort(b, to); err != nil {
			t.Fatal(err)
		}
		if sent++; sent%200 == 0 {
			want := uint64(sent * 9 / 10)
			waitFor(t, "reading", func() bool { return c.Metrics().UDP4.RxPackets >= want })
		}
	}
	for first := range 256 {
		for _, size := range []int{1, 7, 20, 38, 100, 1452, 9000} {
			b := make([]byte, size)
			for i := range b {
				b[i] = byte(random.Uint32())
			}
			b[0] = byte(first)
			send(b)
		}
	}
	for i := range magic { // every byte of a good ping, flipped; and every cut
		b := bytes.Clone(magic)
		b[i] ^= 0x55
		send(b)
		send(magic[:i])
	}
	waitFor(t, "reading", func() bool { return c.Metrics().UDP4.RxPackets >= uint64(sent*9/10) })
	select {
	case p := <-got:
		t.Errorf("garbage reached QUIC: %x", p[:min(len(p), 8)])
	default:
	}
	if m := c.Metrics(); m.RecvGarbage == 0 || m.UnknownSource == 0 || m.RecvDisco == 0 {
		t.Errorf("counted %+v", m)
	}
}

func FuzzDemux(f *testing.F) {
	f.Add([]byte("\x40abc"), 2, false)
	f.Add([]byte("\x03\x00abc\x01\x00\x40"), 0, true)
	f.Add(pingFrom(f, testKey(5), testKey(1).NodeID()), 60, false)
	c, err := New(loopbackConfig(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { c.Close() })
	key := fec.Key{1}
	coding := c.Code(testKey(2).NodeID(), key, key)
	f.Add(fec.NewEncoder(key, time.Now()).Append(nil, time.Now(), []byte("\x40abc"), 1, 8), 100, false)
	f.Fuzz(func(t *testing.T, data []byte, seg int, framed bool) {
		in := inbound{data: data, seg: max(seg, 1), framed: framed, from: nodemap.UDPAddr(netip.MustParseAddrPort("192.0.2.1:1"))}
		c.sort(&in)
		in.addrs, in.peer = new(addrPair), new(peer) // as if the source were known
		in.peer.codings.list.Store(&[]*Coding{coding})
		left := len(in.data)
		c.pc.cur = in
		for b, _, _ := c.pc.nextQUIC(); b != nil; b, _, _ = c.pc.nextQUIC() {
			if len(c.pc.cur.data) >= left {
				t.Fatal("no progress")
			}
			left = len(c.pc.cur.data)
		}
		for len(c.disco.queue) > 0 {
			<-c.disco.queue
		}
	})
}
