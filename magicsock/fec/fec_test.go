package fec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

var testKey = Key{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}

// start is an epoch, and the time of what has none of its own.
var start = time.Unix(1000, 0)

// smallPacket is about how large packets are where that does not matter: tests are faster so.
const smallPacket = 120

// quic is a packet of n bytes that looks like a short header, and can be told from others.
func quic(r *rand.Rand, n int) []byte {
	b := make([]byte, 0, n+8)
	for len(b) < n {
		b = binary.LittleEndian.AppendUint64(b, r.Uint64())
	}
	b[0] = 0x40 | b[0]&0x3f
	return b[:n]
}

// path is an encoder, and what stands between it and a decoder.
type path struct {
	t    testing.TB
	r    *rand.Rand
	enc  *Encoder
	dec  *Decoder
	lose func() bool
	now  time.Time

	sent   map[string]uint8 // ECN by packet
	got    map[string]uint8
	direct int // that arrived by themselves
}

func newPath(t testing.TB, seed uint64, m int) *path {
	p := &path{
		t: t, r: rand.New(rand.NewPCG(seed, 1)), enc: NewEncoder(testKey, start), dec: NewDecoder(testKey, start), now: start,
		lose: func() bool { return false }, sent: make(map[string]uint8), got: make(map[string]uint8),
	}
	p.enc.SetParity(m)
	p.dec.Remember(true)
	return p
}

func (p *path) take(packet []byte, ecn uint8) {
	if want, ok := p.sent[string(packet)]; !ok || want != ecn {
		p.t.Fatalf("a packet of %d bytes and ECN %d was never sent", len(packet), ecn)
	}
	p.got[string(packet)] = ecn
}

// send sends a packet, and the parity if the block is full.
func (p *path) send(packet []byte) {
	ecn := uint8(p.r.IntN(4))
	p.sent[string(packet)] = ecn
	p.now = p.now.Add(300 * time.Microsecond)
	b := p.enc.Append(nil, p.now, packet, ecn, 3)
	if !p.lose() {
		a, err := p.dec.Data(b, p.take)
		if err != nil || a.Want != 3 {
			p.t.Fatal(a, err)
		}
		p.direct++
		p.take(a.Packet, a.ECN)
	}
	if p.enc.Full() {
		p.parity()
	}
}

func (p *path) parity() {
	p.enc.Parity(func(b []byte) {
		if !p.lose() {
			if err := p.dec.Parity(bytes.Clone(b), p.take); err != nil {
				p.t.Fatal(err)
			}
		}
	})
}

// Of what is lost at random little stays lost: as little as the estimator reckons with.
func TestRandomLoss(t *testing.T) {
	for _, test := range []struct {
		percent float64
		m       int
	}{{0, 0}, {0.1, 2}, {1, 5}, {2, 8}, {5, 13}} {
		t.Run(fmt.Sprintf("%v %%", test.percent), func(t *testing.T) {
			p := newPath(t, 1, test.m)
			p.lose = func() bool { return p.r.Float64()*100 < test.percent }
			const packets = 50_000
			for range packets {
				p.send(quic(p.r, 8+p.r.IntN(smallPacket)))
			}
			p.parity()
			lost := len(p.sent) - len(p.got)
			t.Logf("%d of %d lost on the way, %d in the end; %+v", packets-p.direct, packets, lost, p.dec.Stats())
			if lost > 6 {
				t.Errorf("%d packets stay lost", lost)
			}
		})
	}
}

// Whatever is lost of a block comes back if no more is lost than there is parity, and nothing
// that was not sent does.
func TestEveryPattern(t *testing.T) {
	for m := 1; m <= MaxParity; m++ {
		for count := range BlockSize + 1 {
			if count == 0 {
				continue
			}
			for range 5 {
				p := newPath(t, uint64(m*100+count), m)
				parity := fewer(m, count)
				total := count + parity
				lost := map[int]bool{}
				for range p.r.IntN(parity + 2) {
					lost[p.r.IntN(total)] = true
				}
				i := -1
				p.lose = func() bool { i++; return lost[i] }
				largest := smallPacket
				if count == BlockSize {
					largest = MaxPacket
				}
				for range count {
					p.send(quic(p.r, 8+p.r.IntN(largest-8)))
				}
				if !p.enc.Full() && count < BlockSize {
					p.parity() // of a block that is not full
				}
				if len(lost) <= parity && len(p.got) != count {
					t.Fatalf("%d packets and %d of parity, %v lost: %d arrive", count, m, lost, len(p.got))
				}
			}
		}
	}
}

// A block is over when its time is, with as many parity packets as were to follow when it began.
func TestShortBlocks(t *testing.T) {
	e := NewEncoder(testKey, start)
	if !e.Due().IsZero() {
		t.Error("nothing was sent, yet something is due")
	}
	r := rand.New(rand.NewPCG(1, 1))
	e.Append(nil, start, quic(r, 100), 0, 0)
	if !e.Due().IsZero() {
		t.Error("no parity is wanted, yet some is due")
	}
	e.Parity(func([]byte) { t.Error("parity that nobody wanted") })
	e.SetParity(8)
	e.Append(nil, start.Add(time.Second), quic(r, 1000), 0, 0)
	e.SetParity(2)
	e.Append(nil, start.Add(time.Second+time.Millisecond), quic(r, 50), 0, 0)
	if want := start.Add(time.Second + leastWait); !e.Due().Equal(want) {
		t.Errorf("due at %v, want %v", e.Due(), want)
	}
	n := 0
	e.Parity(func(b []byte) {
		if p, err := parseParity(b); err != nil || p.count != 2 || p.index != n || len(b) != parityLen+unitHeader+1000 {
			t.Errorf("%+v, %v, %d bytes", p, err, len(b))
		}
		n++
	})
	if n != fewer(8, 2) || n != 3 || !e.Due().IsZero() {
		t.Errorf("%d parity packets", n)
	}
	for latency, want := range map[time.Duration]time.Duration{time.Millisecond: leastWait, 20 * time.Millisecond: 10 * time.Millisecond, time.Second: mostWait} {
		e.SetLatency(latency)
		e.Append(nil, start, quic(r, 50), 0, 0)
		if got := e.Due().Sub(start); got != want {
			t.Errorf("round trip of %v: a block waits for %v, want %v", latency, got, want)
		}
		e.Parity(func([]byte) {})
	}
	if got := e.Append(nil, start, make([]byte, MaxPacket+1), 0, 0); len(got) != 0 {
		t.Error("a packet that is too long was taken")
	}
}

// A short block is protected as well as a full one, and by no more.
func TestFewer(t *testing.T) {
	for m := 1; m <= MaxParity; m++ {
		if fewer(m, BlockSize) != m {
			t.Errorf("%d for a full block of %d", fewer(m, BlockSize), m)
		}
		for count := 1; count < BlockSize; count++ {
			if n := fewer(m, count); n == 0 || n > fewer(m, count+1) {
				t.Errorf("%d parity packets for %d, %d for %d, %d for a full block", n, count, fewer(m, count+1), count+1, m)
			}
		}
	}
	if n := fewer(MaxParity, 1); n < 3 || n > 4 {
		t.Errorf("%d for a packet alone", n)
	}
}

// Packets that come late or twice are handed on, and what they complete is put together.
func TestReordering(t *testing.T) {
	p := newPath(t, 3, 4)
	var all [][]byte
	for range 50 {
		for range BlockSize {
			packet := quic(p.r, 1+p.r.IntN(1400))
			p.sent[string(packet)] = 1
			all = append(all, p.enc.Append(nil, p.now, packet, 1, 0))
		}
		p.enc.Parity(func(b []byte) { all = append(all, bytes.Clone(b)) })
	}
	for i := range all { // each up to 30 places from its own
		j := min(i+p.r.IntN(30), len(all)-1)
		all[i], all[j] = all[j], all[i]
	}
	for i, b := range all {
		if p.r.IntN(50) == 0 {
			continue
		}
		for range 1 + i%2 {
			if b[0] == KindParity {
				if err := p.dec.Parity(bytes.Clone(b), p.take); err != nil {
					t.Fatal(err)
				}
				continue
			}
			a, err := p.dec.Data(bytes.Clone(b), p.take)
			if err != nil {
				t.Fatal(err)
			}
			p.take(a.Packet, a.ECN)
		}
	}
	if lost := len(p.sent) - len(p.got); lost > 1 {
		t.Errorf("%d packets stay lost; %+v", lost, p.dec.Stats())
	}
}

// Who does not have the key changes nothing: neither a bit of what the tag covers, nor packets of
// its own.
func TestForgery(t *testing.T) {
	p := newPath(t, 4, 3)
	data := p.enc.Append(nil, start, quic(p.r, 200), 1, 0)
	var rows [][]byte
	p.enc.Parity(func(b []byte) { rows = append(rows, bytes.Clone(b)) })
	none := func([]byte, uint8) { t.Error("something was put together") }
	for bit := range 8 * tagged {
		b := bytes.Clone(data)
		b[bit/8] ^= 1 << (bit % 8)
		if _, err := p.dec.Data(b, none); err == nil {
			t.Fatalf("bit %d of a data packet is not covered", bit)
		}
	}
	for bit := range 8 * len(rows[0]) {
		b := bytes.Clone(rows[0])
		b[bit/8] ^= 1 << (bit % 8)
		if err := p.dec.Parity(b, none); err == nil {
			t.Fatalf("bit %d of a parity packet is not covered", bit)
		}
	}
	forger := NewEncoder(Key{99}, start)
	for range 1000 {
		if _, err := p.dec.Data(forger.Append(nil, start, quic(p.r, 100), 1, 8), none); !errors.Is(err, ErrTag) {
			t.Fatal(err)
		}
	}
	if p.dec.begun || p.dec.highest != 0 {
		t.Error("forged packets move the ring")
	}
	if _, err := p.dec.Data(data, none); err != nil {
		t.Error("the true packet is refused: ", err)
	}
}

// What is written over behind the tag's reach spoils a repair, which QUIC then refuses, and
// nothing else.
func TestSpoiltRepair(t *testing.T) {
	p := newPath(t, 5, 2)
	first, second := quic(p.r, 300), quic(p.r, 300)
	a := p.enc.Append(nil, start, first, 1, 0)
	p.enc.Append(nil, start, second, 1, 0)
	a[200] ^= 1
	var rows [][]byte
	p.enc.Parity(func(b []byte) { rows = append(rows, bytes.Clone(b)) })
	repaired := 0
	take := func(b []byte, _ uint8) {
		repaired++
		if len(b) != len(second) {
			t.Errorf("%d bytes", len(b))
		}
	}
	if _, err := p.dec.Data(a, take); err != nil {
		t.Fatal(err)
	}
	if err := p.dec.Parity(rows[0], take); err != nil || repaired != 1 {
		t.Errorf("%v, %d repaired", err, repaired)
	}
}

// Numbers far from those before are not believed until three in a row agree; the packets are
// handed on all the same.
func TestStrayNumbers(t *testing.T) {
	p := newPath(t, 6, 0)
	at := func(number uint32) {
		t.Helper()
		p.enc.next = number
		packet := quic(p.r, 50)
		p.sent[string(packet)] = 1
		a, err := p.dec.Data(p.enc.Append(nil, start, packet, 1, 0), p.take)
		if err != nil || a.Number != number {
			t.Fatal(a, err)
		}
		p.take(a.Packet, a.ECN)
	}
	at(100)
	for i := range uint32(10) {
		at(1_000_000 * (i + 1))
	}
	if p.dec.highest != 100 {
		t.Errorf("highest is %d", p.dec.highest)
	}
	at(7_000_000)
	at(7_000_001)
	at(7_000_002)
	if p.dec.highest != 7_000_002 || len(p.got) != len(p.sent) {
		t.Errorf("highest is %d, %d of %d packets", p.dec.highest, len(p.got), len(p.sent))
	}
}

// What a decoder remembers is bounded, whatever comes, and nothing when nothing is wanted.
func TestMemoryIsBounded(t *testing.T) {
	p := newPath(t, 7, MaxParity)
	p.lose = func() bool { return p.r.IntN(3) == 0 }
	for range 20_000 {
		p.send(quic(p.r, MaxPacket))
	}
	kept := 0
	for _, s := range p.dec.ring {
		kept += cap(s.unit)
	}
	if len(p.dec.ring) != ringSize || kept > ringSize*2*maxUnit {
		t.Errorf("%d packets of %d bytes are kept", len(p.dec.ring), kept)
	}
	p.dec.Remember(false)
	for range 100 {
		p.send(quic(p.r, 100))
	}
	if p.dec.ring != nil || p.dec.spare != nil {
		t.Error("packets are kept that nobody wants repaired")
	}
}

func FuzzDecoder(f *testing.F) {
	e := NewEncoder(testKey, start)
	e.SetParity(2)
	r := rand.New(rand.NewPCG(1, 1))
	var seeds []byte
	for range 3 {
		b := e.Append(nil, start, quic(r, 40), 1, 2)
		seeds = append(append(seeds, byte(len(b))), b...)
	}
	e.Parity(func(b []byte) { seeds = append(append(seeds, byte(len(b))), b...) })
	f.Add(seeds)
	f.Fuzz(func(t *testing.T, packets []byte) {
		d := NewDecoder(testKey, start)
		d.Remember(true)
		repaired := func(b []byte, ecn uint8) {
			if len(b) == 0 || len(b) > MaxPacket || ecn > 3 {
				t.Errorf("put together %d bytes, ECN %d", len(b), ecn)
			}
		}
		for len(packets) > 0 { // a length, and a packet that a peer has sealed
			n := min(int(packets[0]), len(packets)-1)
			b := bytes.Clone(packets[1 : 1+n])
			packets = packets[1+n:]
			if len(b) >= parityLen {
				testKey.seal(b)
			}
			if len(b) > 0 && b[0] == KindParity {
				_ = d.Parity(b, repaired)
				continue
			}
			if a, err := d.Data(b, repaired); err == nil && (len(a.Packet) == 0 || a.Want > MaxParity || a.ECN > 3) {
				t.Errorf("%+v", a)
			}
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	for _, m := range []int{0, 4, 16} {
		b.Run(fmt.Sprint(m), func(b *testing.B) {
			e := NewEncoder(testKey, start)
			e.SetParity(m)
			packet := quic(rand.New(rand.NewPCG(1, 1)), 1430)
			buf := make([]byte, 0, 2000)
			b.SetBytes(int64(len(packet)))
			b.ReportAllocs()
			for b.Loop() {
				buf = e.Append(buf[:0], start, packet, 1, 0)
				if e.Full() {
					e.Parity(func([]byte) {})
				}
			}
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, lost := range []bool{false, true} {
		b.Run(map[bool]string{false: "clean", true: "1 of 64 lost"}[lost], func(b *testing.B) {
			e, d := NewEncoder(testKey, start), NewDecoder(testKey, start)
			e.SetParity(4)
			d.Remember(true)
			packet := quic(rand.New(rand.NewPCG(1, 1)), 1430)
			buf := make([]byte, 0, 2000)
			none := func([]byte, uint8) {}
			b.SetBytes(int64(len(packet)))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				buf = e.Append(buf[:0], start, packet, 1, 0)
				if !lost || i%BlockSize != 7 {
					_, _ = d.Data(buf, none)
				}
				if e.Full() {
					e.Parity(func(p []byte) { _ = d.Parity(p, none) })
				}
			}
		})
	}
}
