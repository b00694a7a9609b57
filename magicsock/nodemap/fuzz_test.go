package nodemap

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock/disco"
)

// FuzzEvents plays any sequence of calls. Nothing may panic, the indexes stay
// consistent and bounded, Tick always moves on, and a direct address carries
// bulk only with a fresh pong (S7).
func FuzzEvents(f *testing.F) {
	f.Add([]byte{0, 0, 1, 1, 0, 2, 2, 0, 3, 3, 0, 4, 4, 0, 5, 5, 0, 6, 6, 0, 7, 7, 0, 8, 8, 0, 9, 9, 0, 10})
	f.Add([]byte{0x80, 1, 1, 0x81, 1, 1, 2, 0, 0, 3, 0, 0, 9, 9, 9, 1, 1, 1, 12, 1, 1})
	f.Add([]byte("a longer sequence of bytes that means some calls; the fuzzer finds more of them than anybody would think of"))
	f.Fuzz(func(t *testing.T, data []byte) {
		newFuzzed(t, data).play()
	})
}

// TestRandomEvents plays longer sequences than the fuzzer likes to make.
func TestRandomEvents(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 1))
		data := make([]byte, 9000)
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		newFuzzed(t, data).play()
	}
}

// play makes all calls, then lets the Map come to rest.
func (z *fuzzed) play() {
	for len(z.data) >= 3 {
		z.step(z.byte(), z.byte(), z.byte())
		checkMap(z.t, z.m)
	}
	for range 2000 {
		if z.m.Next().IsZero() {
			return
		}
		z.tick()
	}
	z.t.Fatalf("never at rest: next is %v away", z.m.Next().Sub(z.now))
}

// fuzzed is a Map whose calls come from bytes.
type fuzzed struct {
	t     *testing.T
	m     *Map
	data  []byte
	now   time.Time
	urls  [3]identity.RelayURL
	pings []Action // sent, to be answered
	pongs map[netip.AddrPort]time.Time
}

func newFuzzed(t *testing.T, data []byte) *fuzzed {
	z := &fuzzed{t: t, data: data, now: epoch, pongs: map[netip.AddrPort]time.Time{}}
	mode := byte(0)
	if len(data) > 0 {
		mode, z.data = data[0], data[1:]
	}
	z.m = New(Config{
		Self: testID(0), NewTxID: txIDs(1), Open: mode&1 != 0, LoopbackOK: mode&2 != 0,
		Peer: func(id identity.NodeID) bool { return mode&4 != 0 && id[0]%2 == 0 },
	})
	z.urls = [3]identity.RelayURL{{}, testURL(t, relayA), testURL(t, relayB)}
	return z
}

func (z *fuzzed) byte() byte {
	b := z.data[0]
	z.data = z.data[1:]
	return b
}

func (z *fuzzed) addr(b byte) netip.AddrPort {
	switch {
	case b%16 == 15:
		return netip.AddrPort{}
	case b%8 == 7:
		return netip.AddrPortFrom(netip.MustParseAddr("2001:db8::1"), uint16(b))
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, b % 16}), 41820)
}

func (z *fuzzed) addrs(b byte) (out []netip.AddrPort) {
	for i := range b % 40 {
		out = append(out, z.addr(b+i*7))
	}
	return out
}

func (z *fuzzed) from(b byte) Addr {
	if b >= 0xc0 {
		return RelayAddr(z.urls[b%3])
	}
	return UDPAddr(z.addr(b))
}

func (z *fuzzed) take(acts []Action) {
	for _, a := range acts {
		if a.Kind == SendPing && len(z.pings) < 1000 {
			z.pings = append(z.pings, a)
		}
		if a.Kind == 0 || a.Node.IsZero() {
			z.t.Fatalf("action %+v", a)
		}
	}
}

func (z *fuzzed) tick() {
	z.now = later(z.now, z.m.Next())
	acts, next := z.m.Tick(z.now)
	z.take(acts)
	if !next.IsZero() && !next.After(z.now) {
		z.t.Fatal("Tick does not move on")
	}
	checkMap(z.t, z.m)
}

func (z *fuzzed) pong(a Action, b byte) {
	from := a.To
	if b&1 != 0 {
		from = z.from(b)
	}
	if a.To.UDP.IsValid() && a.Size >= paddedSize {
		z.pongs[a.To.UDP] = z.now
	}
	z.take(z.m.HandlePong(z.now, a.Node, from, &disco.Pong{TxID: a.TxID, Src: z.addr(b)}))
}

func (z *fuzzed) route(id identity.NodeID, b byte) {
	mapped, _ := z.m.MappedOf(id)
	r, acts := z.m.Route(z.now, mapped, int(b)*100, 1+int(b)%20, b&1 != 0)
	z.take(acts)
	n := z.m.byID[id]
	if n == nil || !r.UDP.IsValid() || n.choice.conn == ConnNone {
		return
	}
	if p := n.path(r.UDP); p == nil || age(z.now, p.everPong) > trustTime {
		z.t.Fatalf("bulk to %v without a fresh pong", r.UDP)
	}
}

func (z *fuzzed) step(op, a, b byte) {
	id := testID(a % 6)
	switch op % 16 {
	case 0, 1:
		z.take(z.m.HandlePing(z.now, id, z.from(b), disco.TxID{a, b}, int(b)*10))
	case 2, 3, 4:
		if len(z.pings) > 0 {
			z.pong(z.pings[int(a)%len(z.pings)], b)
		}
	case 5:
		z.take(z.m.HandleCallMeMaybe(z.now, id, z.urls[b%3], z.addrs(b)))
	case 6, 7:
		z.route(id, b)
	case 8:
		z.m.Received(z.now, z.from(b), id, int(b)*10)
	case 9:
		acts, _ := z.m.Add(z.now, identity.NodeAddr{ID: id, Relay: z.urls[b%3], Direct: z.addrs(b)}, Source([]string{"app", "saved"}[b&1]))
		z.take(acts)
	case 10:
		z.now = z.now.Add(time.Duration(a) * time.Duration(b) * time.Millisecond)
	case 11:
		for range b % 8 {
			if !z.m.Next().IsZero() {
				z.tick()
			}
		}
	case 12:
		z.take(z.m.NetworkChanged(z.now))
	case 13:
		z.rare(id, a, b)
	case 14:
		z.m.Mapped(id)
	case 15:
		z.take(z.m.SendFailed(z.now, id, z.from(b)))
	}
}

func (z *fuzzed) rare(id identity.NodeID, a, b byte) {
	switch b % 5 {
	case 0:
		z.m.Remove(id)
	case 1:
		z.take(z.m.Established(z.now, id))
	case 2:
		z.take(z.m.SetOwnAddrs(z.now, z.addrs(a%3), nil))
	case 3:
		z.take(z.m.Ping(z.now, id))
	case 4:
		z.m.Remotes(z.now)
		z.m.Claims(z.now)
	}
}
