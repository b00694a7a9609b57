package nodemap

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

// wide returns two nodes that announced what they can do and a function that sets
// the largest packet that arrives.
func wide(t *testing.T, relay bool, f Features) (s *sim, a, b *simNode, setMTU func(int)) {
	s, a, b = pair(t, relay)
	a.do(a.m.SetFeatures(s.now, b.id, f))
	b.do(b.m.SetFeatures(s.now, a.id, f))
	a.payload = 1452
	mtu := 1452
	s.drop = func(_, _ netip.AddrPort, size int) bool { return size > mtu }
	return s, a, b, func(n int) { mtu = n }
}

var both = Features{MTUProbe: true, Cut: true}

// Packets are coded on a direct path of 5 ms and more to a node that joins in, if the path takes
// them with what coding adds. A path that does not takes them as they are; nothing is lost by
// trying, then or later.
func TestRouteCoded(t *testing.T) {
	fec := Features{MTUProbe: true, Cut: true, FEC: true}
	for _, test := range []struct {
		name     string
		features Features
		delay    time.Duration
		mtu      int
		want     bool
	}{
		{"far", fec, 10 * time.Millisecond, 1452, true},
		{"near", fec, 2 * time.Millisecond, 1452, false},
		{"without the feature", both, 10 * time.Millisecond, 1452, false},
		{"just large enough", fec, 10 * time.Millisecond, 1436 + codedExtra, true},
		{"too small for coded ones", fec, 10 * time.Millisecond, 1436, false},
	} {
		s, a, b, setMTU := wide(t, true, test.features)
		s.delay = test.delay
		setMTU(test.mtu)
		a.payload = 1436
		a.stream(b, tick20, 3*time.Minute)
		s.run(20 * time.Second)
		wantConn(t, a, b, ConnDirect)
		settled := s.now
		for range 140 {
			s.run(time.Second)
			if r := a.route1(b); r.Coded != test.want || r.Max > 0 && r.Max < 1436 || r.Latency < 2*test.delay {
				t.Fatalf("%s: %+v after %v", test.name, r, s.now.Sub(settled))
			}
		}
		s.drop = func(netip.AddrPort, netip.AddrPort, int) bool { return true }
		s.run(10 * time.Second)
		if r := a.route1(b); r.Coded {
			t.Errorf("%s: coded by the relay", test.name)
		}
	}
}

func (a *simNode) route1(b *simNode) Route {
	r, _ := a.m.Route(a.now, a.m.byID[b.id].mapped, 100, 1, false)
	return r
}

// A path that shrinks under a live connection is no black hole, and its room is
// found to within a few bytes.
func TestRoomPathShrinks(t *testing.T) {
	for _, mtu := range []int{1452 - 20, 1380, 1280, 1201, 1190, 1100, 1000, 800} {
		s, a, b, setMTU := wide(t, true, both)
		a.stream(b, tick20, 60*time.Second)
		s.run(10*time.Second + time.Duration(mtu)*time.Millisecond)
		if r := a.route1(b); r.Max != 0 {
			t.Fatalf("limit of %d on a path that carries all", r.Max)
		}
		shrunk := s.now
		setMTU(mtu)
		s.run(20 * time.Second)
		wantConn(t, a, b, ConnDirect)
		r := a.route1(b)
		if r.Max > mtu || r.Max < mtu-sizeStep || !r.Cut {
			t.Errorf("path of %d: limit %d, cut %v", mtu, r.Max, r.Cut)
		}
		if g := b.gap(shrunk, s.now); g > 1500*time.Millisecond {
			t.Errorf("path of %d: gap of %v", mtu, g)
		}
		cut := a.cut
		s.run(2 * time.Second)
		if a.cut-cut < 90 {
			t.Errorf("path of %d: %d of 100 packets were cut", mtu, a.cut-cut)
		}
	}
}

// A path too small for halves is left to the relay.
func TestRoomTooSmallForHalves(t *testing.T) {
	s, a, b, setMTU := wide(t, true, both)
	a.stream(b, tick20, 60*time.Second)
	s.run(10 * time.Second)
	shrunk := s.now
	setMTU(600)
	s.run(20 * time.Second)
	wantConn(t, a, b, ConnRelay)
	if g := b.gap(shrunk, s.now); g > 1200*time.Millisecond {
		t.Errorf("gap of %v", g)
	}
}

// A node that does not join halves gets large packets through its relay, small
// ones directly.
func TestRoomWithoutCut(t *testing.T) {
	s, a, b, setMTU := wide(t, true, Features{MTUProbe: true})
	a.stream(b, tick20, 60*time.Second)
	s.run(10 * time.Second)
	shrunk := s.now
	setMTU(1300)
	s.run(10 * time.Second)
	wantConn(t, a, b, ConnDirect)
	if r := a.route1(b); r.Max < 1300-sizeStep || r.Max > 1300 || r.Cut || r.Wide != s.relay {
		t.Errorf("route %+v", r)
	}
	if g := b.gap(shrunk, s.now); g > 1500*time.Millisecond {
		t.Errorf("gap of %v", g)
	}
}

// A path that grows again carries whole packets within a minute.
func TestRoomPathGrows(t *testing.T) {
	for _, mtu := range []int{1300, 1100} {
		s, a, b, setMTU := wide(t, true, both)
		a.stream(b, tick20, 200*time.Second)
		s.run(10 * time.Second)
		setMTU(mtu)
		s.run(20 * time.Second)
		if a.route1(b).Max == 0 {
			t.Fatal("no limit")
		}
		setMTU(1452)
		s.run(65 * time.Second)
		if r := a.route1(b); r.Max != 0 {
			t.Errorf("limit of %d a minute after the path grew to full size", r.Max)
		}
		wantConn(t, a, b, ConnDirect)
	}
}

// A queue that overflowed for a moment makes a small path of a large one for seconds only: it is
// neither coded nor whole meanwhile. A path that stays small is not tried for ever at that pace.
func TestRoomIsTriedAgainSoon(t *testing.T) {
	s, a, b, setMTU := wide(t, true, Features{MTUProbe: true, Cut: true, FEC: true})
	s.delay = 10 * time.Millisecond
	a.stream(b, tick20, 10*time.Minute)
	s.run(10 * time.Second)
	large := func(d time.Duration) (n int) {
		before := len(a.log)
		s.run(d)
		for _, act := range a.log[before:] {
			if act.Kind == SendPing && act.Size > paddedSize {
				n++
			}
		}
		return n
	}
	setMTU(1300)
	s.run(4 * time.Second)
	if r := a.route1(b); r.Max == 0 {
		t.Fatalf("no limit: %+v", r)
	}
	setMTU(1452 + codedExtra)
	s.run(6 * time.Second)
	if r := a.route1(b); r.Max != 0 || !r.Coded {
		t.Errorf("10 s after its queue overflowed: %+v", r)
	}
	setMTU(1300)
	large(2 * time.Minute)
	if n := large(3 * time.Minute); n == 0 || n > 8 {
		t.Errorf("%d large pings in three minutes on a path that is small", n)
	}
}

// QUIC's own probes of the path, a few packets of a size, are no reason to cut:
// they are to be lost where the path is too small.
func TestRoomLeavesProbesAlone(t *testing.T) {
	s, a, b, setMTU := wide(t, true, both)
	a.payload = 1200
	setMTU(1300)
	a.stream(b, tick20, 60*time.Second)
	s.run(5 * time.Second)
	for i := range 3 {
		a.route(b.id, packet{from: a, size: 1400 + i})
	}
	s.run(5 * time.Second)
	if r := a.route1(b); r.Max != 0 {
		t.Errorf("limit of %d", r.Max)
	}
	for _, act := range a.log {
		if act.Kind == SendPing && act.Size > paddedSize {
			t.Fatalf("ping of %d bytes", act.Size)
		}
	}
}

// Loss alone sets no limit for long.
func TestRoomUnderLoss(t *testing.T) {
	s, a, b, _ := wide(t, true, both)
	n := 0
	s.drop = func(_, _ netip.AddrPort, size int) bool { n++; return n%20 == 0 }
	a.stream(b, tick20, 300*time.Second)
	limited := 0
	for range 300 {
		s.run(time.Second)
		if a.route1(b).Max != 0 {
			limited++
		}
	}
	if limited > 6 {
		t.Errorf("limited in %d of 300 s under 5 %% loss", limited)
	}
}

// Random loss, which takes two and three pings in a row now and then, makes no small path.
func TestRoomUnderRandomLoss(t *testing.T) {
	for _, percent := range []int{1, 5} {
		limited, seconds := 0, 0
		for seed := range uint64(4) {
			s, a, b, _ := wide(t, true, both)
			r := rand.New(rand.NewPCG(seed, uint64(percent)))
			s.drop = func(_, _ netip.AddrPort, size int) bool { return r.IntN(100) < percent }
			a.stream(b, tick20, 300*time.Second)
			for range 300 {
				s.run(time.Second)
				if seconds++; a.route1(b).Max != 0 {
					limited++
				}
			}
		}
		if limited*1000 > seconds*5 {
			t.Errorf("limited in %d of %d s under %d %% loss", limited, seconds, percent)
		}
	}
}

// A node that did not announce it gets no pings above 1200 bytes.
func TestRoomNotAnnounced(t *testing.T) {
	s, a, b, setMTU := wide(t, true, Features{})
	a.stream(b, tick20, 20*time.Second)
	s.run(10 * time.Second)
	setMTU(1300)
	s.run(10 * time.Second)
	for _, act := range a.log {
		if act.Kind == SendPing && act.Size > paddedSize {
			t.Fatalf("ping of %d bytes", act.Size)
		}
	}
}

func TestCutter(t *testing.T) {
	s, a, b, _ := wide(t, false, both)
	a.stream(b, tick20, time.Second)
	s.run(time.Second)
	if id, ok := b.m.Cutter(s.now, a.local); !ok || id != a.id {
		t.Errorf("Cutter = %v, %v", id, ok)
	}
	if _, ok := b.m.Cutter(s.now, netip.MustParseAddrPort("192.0.2.99:1")); ok {
		t.Error("an unknown address may cut")
	}
	if _, ok := b.m.Cutter(s.now.Add(10*time.Second), a.local); ok {
		t.Error("an address without a fresh pong may cut")
	}
	b.do(b.m.SetFeatures(s.now, a.id, Features{MTUProbe: true}))
	if _, ok := b.m.Cutter(s.now, a.local); ok {
		t.Error("a node that did not announce it may cut")
	}
}
