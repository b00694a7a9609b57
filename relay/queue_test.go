package relay

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"github.com/nodetun/nodetun/identity"
)

// drain takes everything and returns the frames.
func drain(t testing.TB, q *Queue) [][]byte {
	t.Helper()
	var frames [][]byte
	for {
		b := q.Take()
		if b == nil {
			return frames
		}
		for len(b) > 0 {
			frame, rest, ok := NextFrame(b)
			if !ok {
				t.Fatal("a block ends within a frame")
			}
			frames = append(frames, bytes.Clone(frame))
			b = rest
		}
		q.Done()
	}
}

func numbered(i, size int) []byte {
	return append(binary.LittleEndian.AppendUint32([]byte{0, 0}, uint32(i)), make([]byte, size)...)
}

func numberOf(frame []byte) int {
	return int(binary.LittleEndian.Uint32(frame[HeaderLen+KeyLen+2:]))
}

func TestQueueKeepsOrder(t *testing.T) {
	q := NewQueue(nil)
	for i := range 100 {
		if !q.PushPacket(TypeRecvPacket, identity.NodeID{}, numbered(i, i*10)) {
			t.Fatal(i)
		}
	}
	frames := drain(t, q)
	for i, f := range frames {
		if numberOf(f) != i || len(f) != HeaderLen+KeyLen+6+i*10 {
			t.Fatalf("frame %d is %d of %d bytes", i, numberOf(f), len(f))
		}
	}
	if len(frames) != 100 || !q.Empty() || q.Take() != nil {
		t.Errorf("%d frames", len(frames))
	}
}

// S26: however much is pushed, a queue holds at most 512 packets and 1 MiB,
// and what goes first is the oldest.
func TestQueueIsBounded(t *testing.T) {
	for name, size := range map[string]int{"by packets": 10, "by bytes": 10_000, "by large packets": 60_000} {
		t.Run(name, func(t *testing.T) {
			const pushed = 5000
			q := NewQueue(nil)
			for i := range pushed {
				if !q.PushPacket(TypeRecvPacket, identity.NodeID{}, numbered(i, size)) {
					t.Fatalf("packet %d was not taken", i)
				}
			}
			frames := drain(t, q)
			total := 0
			for i, f := range frames {
				total += len(f)
				if want := pushed - len(frames) + i; numberOf(f) != want {
					t.Fatalf("frame %d is %d, want %d", i, numberOf(f), want)
				}
			}
			if len(frames) > 512 || total > 1<<20 || len(frames) < 10 {
				t.Errorf("%d frames of %d bytes", len(frames), total)
			}
			if q.Dropped() != uint64(pushed-len(frames)) {
				t.Errorf("%d dropped", q.Dropped())
			}
		})
	}
}

// S26: the memory of a queue is bounded whatever the size of frames and the pace of the
// reader, and nothing of it is forgotten.
func TestQueueMemoryIsBounded(t *testing.T) {
	for _, block := range []int{minPace, firstPace, 64 << 10, maxPace} {
		for _, size := range []int{10, 1000, 2100, 4100, 9000, 17_000, 40_000, MaxPayload - 16} {
			q := NewQueue(nil)
			q.SetBlock(block)
			held := func() (n int) {
				for _, l := range []*lane{&q.control, &q.disco, &q.data} {
					lane := 0
					for _, b := range l.blocks {
						lane += cap(b.buf)
					}
					if q.taken != nil && q.takenFrom == l {
						lane += cap(q.taken.buf)
					}
					if lane != l.held {
						t.Fatalf("block %d, frames of %d: %d bytes are held, %d counted", block, size, lane, l.held)
					}
					n += lane
				}
				return n
			}
			disco := AppendDatagram(nil, append([]byte(discoMagic), make([]byte, min(size, 1200))...))
			for i := range 2000 {
				q.PushPacket(TypeRecvPacket, identity.NodeID{}, numbered(i, max(size, 10)))
				q.PushPacket(TypeRecvPacket, identity.NodeID{}, disco)
				q.PushControl(make([]byte, 13))
				if i == 1000 {
					q.Take()
				}
				if n := held(); n > 5<<18 {
					t.Fatalf("block %d, frames of %d: %d bytes of memory", block, size, n)
				}
			}
			if q.data.frames == 0 || q.disco.frames == 0 {
				t.Errorf("block %d, frames of %d: nothing waits", block, size)
			}
			q.Done()
			for q.Take() != nil {
				q.Done()
			}
			if n := held(); n != 0 {
				t.Errorf("block %d, frames of %d: an empty queue holds %d bytes", block, size, n)
			}
		}
	}
}

// S26: many who send more than the reader takes do not keep those from it who send little,
// whatever the size of their frames, and share what is left.
func TestQueueIsFair(t *testing.T) {
	const floods, rounds = 64, 100
	disco := AppendDatagram(nil, append([]byte(discoMagic), make([]byte, 100)...))
	for _, test := range []struct {
		name  string
		quiet []byte // of the one who sends little
		flood func(i int) []byte
		block int
	}{
		{"small", numbered(0, 60), func(int) []byte { return numbered(0, 100) }, maxPace},
		{"full packets", numbered(0, 1400), func(int) []byte { return numbered(0, 1400) }, maxPace},
		{"slow reader", numbered(0, 1200), func(int) []byte { return numbered(0, 2100) }, minPace},
		{"batches", numbered(0, 100), func(int) []byte { return numbered(0, 16<<10) }, firstPace},
		{"as long as can be", numbered(0, 1200), func(int) []byte { return numbered(0, MaxPayload-16) }, maxPace},
		{"of every size", numbered(0, 1200), func(i int) []byte { return numbered(0, 50+i*i*37%9000) }, minPace},
		{"disco", disco, func(int) []byte { return disco }, minPace},
	} {
		t.Run(test.name, func(t *testing.T) {
			q := NewQueue(nil)
			q.SetBlock(test.block)
			got := make(map[identity.NodeID]int)
			// read takes a quarter of a queue: a 65th of that is more than the quiet one sends.
			read := func() {
				for bytes, frames := 0, 0; bytes < maxQueueBytes/4 && frames < maxQueueFrames/4; {
					rest := q.Take()
					if rest == nil {
						return
					}
					for bytes += len(rest); len(rest) > 0; frames++ {
						var frame []byte
						frame, rest, _ = NextFrame(rest)
						got[keyOf(frame)]++
					}
					q.Done()
				}
			}
			quiet := identity.NodeID{0xff}
			for round := range rounds {
				for i := range 8 * floods {
					q.PushPacket(TypeRecvPacket, identity.NodeID{byte(i % floods)}, test.flood(i))
				}
				if !q.PushPacket(TypeRecvPacket, quiet, test.quiet) {
					t.Fatalf("round %d: refused", round)
				}
				read()
			}
			for !q.Empty() {
				read()
			}
			if got[quiet] != rounds {
				t.Errorf("%d of %d packets of the one who sends little arrived", got[quiet], rounds)
			}
			if len(q.data.parts)+len(q.disco.parts) != 0 || q.data.bytes+q.disco.bytes != 0 {
				t.Errorf("an empty queue counts %v %v", q.data.parts, q.disco.parts)
			}
			least, most := rounds*100, 0
			for id, n := range got {
				if id != quiet {
					least, most = min(least, n), max(most, n)
				}
			}
			t.Logf("the others: %d to %d", least, most)
			// Of frames that are longer than a part only so many fit, one of a node.
			frame := HeaderLen + KeyLen + len(test.flood(0))
			if want := min(floods, maxDataBytes/frame) + 1; len(got) < want {
				t.Errorf("%d of %d nodes got something through", len(got), want)
			}
		})
	}
}

// One who sends while nobody else does has the whole queue; who comes then finds room.
func TestQueueOfOne(t *testing.T) {
	q := NewQueue(nil)
	one, other := identity.NodeID{1}, identity.NodeID{2}
	for i := range 3000 {
		q.PushPacket(TypeRecvPacket, one, numbered(i, 1000))
	}
	if n := q.data.frames; n != maxData {
		t.Errorf("one alone has %d frames of %d", n, maxData)
	}
	for range 10 {
		if !q.PushPacket(TypeRecvPacket, other, numbered(0, 1000)) {
			t.Fatal("no room for another")
		}
	}
	if q.PushPacket(TypeRecvPacket, one, numbered(0, 1000)) {
		t.Error("who has most gets more")
	}
	seen := make(map[identity.NodeID][]int)
	for _, frame := range drain(t, q) {
		seen[keyOf(frame)] = append(seen[keyOf(frame)], numberOf(frame))
	}
	if len(seen[other]) != 10 || len(seen[one]) != maxData-10 || seen[one][0] != 3000-maxData+10 {
		t.Errorf("%d of one from %d on, %d of the other", len(seen[one]), seen[one][0], len(seen[other]))
	}
	if !q.PushPacket(TypeRecvPacket, one, numbered(0, 1000)) {
		t.Error("an empty queue has no room")
	}
}

// What is being written counts: a client that reads nothing costs 1 MiB.
func TestQueueCountsWhatIsTaken(t *testing.T) {
	q := NewQueue(nil)
	q.PushPacket(TypeRecvPacket, identity.NodeID{}, make([]byte, 60_000))
	taken := len(q.Take())
	for range 100 {
		q.PushPacket(TypeRecvPacket, identity.NodeID{}, make([]byte, 60_000))
	}
	if q.data.bytes > maxDataBytes || taken == 0 {
		t.Errorf("%d bytes", q.data.bytes)
	}
	q.Done()
	drain(t, q)
	if q.data.bytes != 0 || q.data.frames != 0 {
		t.Errorf("%d bytes, %d frames left", q.data.bytes, q.data.frames)
	}
}

func TestQueueLanes(t *testing.T) {
	q := NewQueue(nil)
	disco := AppendDatagram(nil, []byte(discoMagic+string(make([]byte, 60))))
	for range 1000 {
		q.PushPacket(TypeRecvPacket, identity.NodeID{1}, make([]byte, 1000))
		q.PushPacket(TypeRecvPacket, identity.NodeID{2}, disco)
	}
	q.PushControl(AppendPing(nil, [8]byte{}))
	kind := func() string {
		b := q.Take()
		defer q.Done()
		switch {
		case b == nil:
			return "none"
		case Type(b[0]) == TypePing:
			return "control"
		case b[HeaderLen] == 2:
			return "disco"
		default:
			return "data"
		}
	}
	// Disco waits in two blocks.
	for i, want := range []string{"control", "disco", "data", "disco", "data", "data"} {
		if got := kind(); got != want {
			t.Errorf("take %d: %s, want %s", i, got, want)
		}
	}
	// S26: a flood of packets that look like disco must not starve data.
	for i := range 4 {
		q.PushPacket(TypeRecvPacket, identity.NodeID{2}, disco)
		want := "disco"
		if i%2 == 1 {
			want = "data"
		}
		if got := kind(); got != want {
			t.Errorf("flood %d: %s, want %s", i, got, want)
		}
	}
}

// A peer that pings without end and reads nothing costs little, and does not
// push out what was queued before.
func TestQueueBoundsControl(t *testing.T) {
	q := NewQueue(nil)
	if !q.PushControl(AppendHealth(nil, "first")) {
		t.Fatal("not taken")
	}
	for range 100_000 {
		q.PushControl(AppendPong(nil, [8]byte{}))
	}
	frames := drain(t, q)
	if len(frames) > maxControl || Type(frames[0][0]) != TypeHealth {
		t.Errorf("%d frames, first %v", len(frames), Type(frames[0][0]))
	}
}

func TestQueueMakesBatches(t *testing.T) {
	type send struct {
		dst  byte
		size int // of all datagrams together
		seg  int
	}
	for _, test := range []struct {
		name   string
		sends  []send
		frames int
	}{
		{"one", []send{{1, 1200, 1200}}, 1},
		{"segments", []send{{1, 12000, 1200}}, 1},
		{"last one short", []send{{1, 12001, 1200}}, 1},
		{"one short", []send{{1, 100, 1200}}, 1},
		{"merged", []send{{1, 1200, 1200}, {1, 2400, 1200}, {1, 50, 1200}}, 1},
		{"not merged with another's", []send{{1, 1200, 1200}, {2, 1200, 1200}, {1, 1200, 1200}}, 3},
		{"cut", []send{{1, 64_800, 1200}}, 5},
		{"longest datagram", []send{{1, MaxDatagram, MaxDatagram}}, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			q := NewQueue(nil)
			var want, got []byte
			datagrams := 0
			for i, s := range test.sends {
				pkts := bytes.Repeat([]byte{byte(i + 1)}, s.size)
				want = append(want, pkts...)
				datagrams += (s.size + s.seg - 1) / s.seg
				if !q.PushDatagrams(identity.NodeID{s.dst}, pkts, s.seg) {
					t.Fatal("not taken")
				}
			}
			frames := drain(t, q)
			for _, f := range frames {
				typ, n, err := ParseHeader(f)
				if err != nil || typ != TypeSendPacket || n != len(f)-HeaderLen {
					t.Fatalf("%v %d %v", typ, n, err)
				}
				_, batch, _ := ParsePacket(f[HeaderLen:])
				if len(batch) > MaxBatch {
					t.Fatalf("batch of %d bytes", len(batch))
				}
				for len(batch) > 0 {
					d, rest, err := NextDatagram(batch)
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, d...)
					batch = rest
					datagrams--
				}
			}
			if len(frames) != test.frames || !bytes.Equal(got, want) || datagrams != 0 {
				t.Errorf("%d frames, want %d; equal %v; %d datagrams missing", len(frames), test.frames, bytes.Equal(got, want), datagrams)
			}
		})
	}
	q := NewQueue(nil)
	if q.PushDatagrams(identity.NodeID{}, make([]byte, MaxDatagram+1), MaxDatagram+1) || q.PushDatagrams(identity.NodeID{}, []byte{1}, 0) || !q.Empty() {
		t.Error("impossible datagrams were taken")
	}
}

func TestQueueClear(t *testing.T) {
	q := NewQueue(nil)
	q.PushControl(AppendKeepAlive(nil))
	q.PushDatagrams(identity.NodeID{}, make([]byte, 100_000), 1200)
	q.Clear()
	if !q.Empty() || q.Take() != nil || q.data.bytes != 0 {
		t.Error("something is left")
	}
}

func TestQueueDoesNotAllocate(t *testing.T) {
	q := NewQueue(nil)
	q.SetBlock(maxPace) // under the race detector sync.Pool loses some blocks on purpose
	payload := make([]byte, 1200)
	run := func() {
		for range 10 {
			q.PushPacket(TypeRecvPacket, identity.NodeID{1}, payload)
			q.PushDatagrams(identity.NodeID{1}, payload, 1200)
		}
		for q.Take() != nil {
			q.Done()
		}
	}
	run()
	if n := testing.AllocsPerRun(500, run); n >= 1 {
		t.Errorf("%v allocations for 20 packets", n)
	}
}

func BenchmarkQueue(b *testing.B) {
	for name, size := range map[string]int{"1200": 1200, "16K": 16 << 10} {
		b.Run("packet/"+name, func(b *testing.B) {
			q := NewQueue(nil)
			payload := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				q.PushPacket(TypeRecvPacket, identity.NodeID{1}, payload)
				if i%32 == 31 {
					for q.Take() != nil {
						q.Done()
					}
				}
			}
		})
	}
	b.Run("datagrams", func(b *testing.B) {
		q := NewQueue(nil)
		payload := make([]byte, 60_000)
		b.SetBytes(int64(len(payload)))
		b.ReportAllocs()
		for b.Loop() {
			q.PushDatagrams(identity.NodeID{1}, payload, 1200)
			for q.Take() != nil {
				q.Done()
			}
		}
	})
}

// A slow link gets little at a time, a fast one more and more.
func TestPace(t *testing.T) {
	var p Pace
	if p.Limit() != firstPace {
		t.Error(p.Limit())
	}
	for p.Limit() < maxPace {
		before := p.Limit()
		for i := range quickRuns {
			if p.Wrote(before, quickWrite/2) != (i == quickRuns-1) {
				t.Fatalf("write %d of %d bytes: limit %d", i, before, p.Limit())
			}
		}
		if p.Limit() != min(2*before, maxPace) {
			t.Fatalf("%d after %d", p.Limit(), before)
		}
	}
	for range 100 {
		if p.Wrote(maxPace, 0) || p.Wrote(10, 0) || p.Wrote(maxPace, (slowWrite+quickWrite)/2) {
			t.Fatal("more than the most")
		}
	}
	for p.Limit() > minPace {
		if before := p.Limit(); !p.Wrote(100, 2*slowWrite) || p.Limit() != max(before/2, minPace) {
			t.Fatalf("%d after %d", p.Limit(), before)
		}
	}
	if p.Wrote(100, time.Hour) {
		t.Error("less than the least")
	}
	for range 100 {
		p.Wrote(100, 0) // says nothing: it was little
	}
	if p.Limit() != minPace {
		t.Error(p.Limit())
	}
}

func TestQueueBlocks(t *testing.T) {
	q := NewQueue(nil)
	q.SetBlock(4096)
	for range 100 {
		q.PushPacket(TypeRecvPacket, identity.NodeID{1}, make([]byte, 1000))
	}
	q.PushPacket(TypeRecvPacket, identity.NodeID{1}, make([]byte, 10_000)) // longer than a block
	frames := 0
	for b := q.Take(); b != nil; b = q.Take() {
		n := 0
		for f, rest, ok := NextFrame(b); ok; f, rest, ok = NextFrame(rest) {
			n++
			_ = f
		}
		if len(b) > 4096 && n > 1 {
			t.Errorf("%d frames of %d bytes", n, len(b))
		}
		frames += n
		q.Done()
	}
	if frames != 101 {
		t.Errorf("%d frames", frames)
	}
}
