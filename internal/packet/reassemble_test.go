package packet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
	"time"
)

// fragments4 cuts a packet into IPv4 fragments of size bytes of data.
func fragments4(ip []byte, size int) [][]byte {
	var all [][]byte
	data := ip[20:]
	for offset := 0; offset < len(data); offset += size {
		end := min(offset+size, len(data))
		f := append(bytes.Clone(ip[:20]), data[offset:end]...)
		binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
		field := uint16(offset / 8)
		if end < len(data) {
			field |= 0x2000
		}
		binary.BigEndian.PutUint16(f[6:], field)
		all = append(all, f)
	}
	return all
}

// fragments6 does the same for IPv6.
func fragments6(ip []byte, size int) [][]byte {
	var all [][]byte
	data := ip[40:]
	for offset := 0; offset < len(data); offset += size {
		end := min(offset+size, len(data))
		f := append(bytes.Clone(ip[:40]), ip[6], 0, 0, 0, 0, 0, 0, 42)
		more := uint16(0)
		if end < len(data) {
			more = 1
		}
		binary.BigEndian.PutUint16(f[42:], uint16(offset)|more)
		f[6] = protoFragment
		f = append(f, data[offset:end]...)
		binary.BigEndian.PutUint16(f[4:], uint16(len(f)-40))
		all = append(all, f)
	}
	return all
}

func add(t *testing.T, r *Reassembler, now time.Time, ip []byte) ([]byte, error) {
	t.Helper()
	i, err := Parse(ip)
	if err != nil {
		t.Fatal(err)
	}
	return r.Add(now, ip, i)
}

func TestReassemble(t *testing.T) {
	payload := string(bytes.Repeat([]byte("0123456789"), 800))
	now := time.Unix(1, 0)
	for _, tc := range []struct {
		name      string
		whole     []byte
		fragments [][]byte
	}{
		{"IPv4", build(protoUDP, a4, b4, udp(1, 2, payload)), fragments4(build(protoUDP, a4, b4, udp(1, 2, payload)), 1400)},
		{"IPv6", build(protoUDP, a6, b6, udp(1, 2, payload)), fragments6(build(protoUDP, a6, b6, udp(1, 2, payload)), 1232)},
	} {
		for _, order := range []string{"in order", "backwards"} {
			t.Run(tc.name+" "+order, func(t *testing.T) {
				var r Reassembler
				var got []byte
				for n := range tc.fragments {
					at := n
					if order == "backwards" {
						at = len(tc.fragments) - 1 - n
					}
					whole, err := add(t, &r, now, tc.fragments[at])
					if err != nil {
						t.Fatal(err)
					}
					if (whole != nil) != (n == len(tc.fragments)-1) {
						t.Fatalf("fragment %d: whole = %v", n, whole != nil)
					}
					got = whole
				}
				if err := valid(got); err != nil {
					t.Error(err)
				}
				if i, _ := Parse(got); !bytes.Equal(got[i.L4:], tc.whole[i.L4:]) {
					t.Error("the data differs")
				}
				if r.bytes != 0 || len(r.pending) != 0 {
					t.Errorf("%d bytes, %d packets are left", r.bytes, len(r.pending))
				}
			})
		}
	}
}

// S14: overlaps drop the whole packet; number, bytes and time are bounded.
func TestReassembleAttacks(t *testing.T) {
	now := time.Unix(1, 0)
	whole := build(protoUDP, a4, b4, udp(1, 2, string(make([]byte, 4000))))
	pieces := fragments4(whole, 1000)
	t.Run("overlap", func(t *testing.T) {
		var r Reassembler
		add(t, &r, now, pieces[0])
		evil := bytes.Clone(pieces[1])
		binary.BigEndian.PutUint16(evil[6:], 0x2000|120) // 960, before the end of the first
		if _, err := add(t, &r, now, evil); !errors.Is(err, ErrFragment) {
			t.Errorf("%v, want %v", err, ErrFragment)
		}
		if len(r.pending) != 0 || r.bytes != 0 {
			t.Error("the packet is still there")
		}
	})
	t.Run("too late", func(t *testing.T) {
		var r Reassembler
		add(t, &r, now, pieces[0])
		for _, p := range pieces[1:] {
			if got, _ := add(t, &r, now.Add(6*time.Second), p); got != nil {
				t.Error("a packet from the past came together")
			}
		}
	})
	t.Run("many", func(t *testing.T) {
		var r Reassembler
		for id := range 10_000 {
			f := bytes.Clone(pieces[0])
			binary.BigEndian.PutUint16(f[4:], uint16(id))
			add(t, &r, now, f)
		}
		if len(r.pending) > maxPending || r.bytes > maxPendingBytes {
			t.Errorf("%d packets, %d bytes", len(r.pending), r.bytes)
		}
	})
	t.Run("beyond 65535", func(t *testing.T) {
		var r Reassembler
		f := bytes.Clone(pieces[0])
		binary.BigEndian.PutUint16(f[6:], 0x2000|8191)
		if _, err := add(t, &r, now, f); !errors.Is(err, ErrFragment) {
			t.Errorf("%v, want %v", err, ErrFragment)
		}
	})
}

// checkBooks: the bytes that are counted are those that are there.
func checkBooks(t testing.TB, r *Reassembler) {
	t.Helper()
	cost := 0
	for _, p := range r.pending {
		held := 0
		for _, piece := range p.pieces {
			held += len(piece.data)
		}
		if held != p.held {
			t.Errorf("%d bytes are held, %d counted", held, p.held)
		}
		cost += p.cost()
	}
	if cost != r.bytes || r.bytes > maxPendingBytes || len(r.pending) > maxPending {
		t.Errorf("%d packets, %d bytes, %d counted", len(r.pending), cost, r.bytes)
	}
}

// Whatever the cuts and the order, the packet is the one that was cut.
func TestReassembleRandom(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	now := time.Unix(1, 0)
	for round := range 300 {
		payload := make([]byte, random.IntN(5000))
		for i := range payload {
			payload[i] = byte(random.Uint32())
		}
		whole := build(protoUDP, a4, b4, udp(1, 2, string(payload)))
		cut := fragments4
		if round%2 == 0 {
			whole, cut = build(protoUDP, a6, b6, udp(1, 2, string(payload))), fragments6
		}
		fragments := cut(whole, 8*(1+random.IntN(200)+len(payload)/1600))
		if len(fragments) == 1 && whole[0]>>4 == 4 {
			continue // not a fragment at all
		}
		random.Shuffle(len(fragments), func(i, j int) { fragments[i], fragments[j] = fragments[j], fragments[i] })
		var (
			r   Reassembler
			got []byte
			err error
		)
		for n, f := range fragments {
			if got, err = add(t, &r, now, f); err != nil || (got != nil) != (n == len(fragments)-1) {
				t.Fatalf("fragment %d of %d: %x, %v", n, len(fragments), got, err)
			}
			checkBooks(t, &r)
		}
		i, err := Parse(got)
		if err != nil || valid(got) != nil || i.Fragment || !bytes.Equal(got[i.L4:], whole[i.L4:]) {
			t.Fatalf("%x\nbecame %x, %v", whole, got, err)
		}
		if len(r.pending) != 0 {
			t.Error("something is left")
		}
	}
}

// Extension headers after the fragment header belong to what was cut.
func TestReassembleOptionsInside(t *testing.T) {
	inside := append([]byte{protoUDP, 0, 1, 4, 0, 0, 0, 0}, udp(1, 2, string(make([]byte, 100)))...)
	whole := append(appendHeader(nil, protoDestOpts, a6, b6, len(inside)), inside...)
	fixChecksum(whole, protoUDP, ipv6Len+8)
	var (
		r   Reassembler
		got []byte
	)
	for n, f := range fragments6(whole, 64) {
		i, err := Parse(f)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 && (i.Proto != protoUDP || i.L4 != 56 || i.dataAt != 48) {
			t.Errorf("first fragment: %+v", i)
		}
		if got, err = r.Add(time.Unix(1, 0), f, i); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, whole) {
		t.Errorf("%x, want\n%x", got, whole)
	}
}

func TestReassembleNoFragment(t *testing.T) {
	whole := build(protoUDP, a4, b4, udp(1, 2, "x"))
	var r Reassembler
	if got, err := add(t, &r, time.Unix(1, 0), whole); err != nil || !bytes.Equal(got, whole) {
		t.Errorf("%x, %v", got, err)
	}
	// The atomic fragment of RFC 6946 is whole at once.
	if got, err := add(t, &r, time.Unix(1, 0), fragments6(build(protoUDP, a6, b6, udp(1, 2, "x")), 64)[0]); err != nil || valid(got) != nil {
		t.Errorf("%x, %v", got, err)
	}
}

// S14: what contradicts itself is dropped with all that came before it.
func TestReassembleContradictions(t *testing.T) {
	now := time.Unix(1, 0)
	pieces := fragments4(build(protoUDP, a4, b4, udp(1, 2, string(make([]byte, 4000)))), 1000)
	at := func(ip []byte, offset int, more bool) []byte {
		f := bytes.Clone(ip)
		field := uint16(offset / 8)
		if more {
			field |= 0x2000
		}
		binary.BigEndian.PutUint16(f[6:], field)
		return f
	}
	last := pieces[len(pieces)-1]
	for _, tc := range []struct {
		name string
		in   [][]byte // the last is refused
	}{
		{"the same twice", [][]byte{pieces[1], pieces[1]}},
		{"overlap by the one before", [][]byte{pieces[1], at(pieces[0], 8, true)}},
		{"overlap by the one after", [][]byte{pieces[1], at(pieces[2], 1992, true)}},
		{"around another", [][]byte{at(last, 1008, true), at(pieces[0], 1000, true)}},
		{"inside another", [][]byte{at(pieces[0], 1000, true), at(last, 1008, true)}},
		{"two ends", [][]byte{last, at(last, 5000, false)}},
		{"two ends, the second earlier", [][]byte{last, at(last, 3000, false)}},
		{"beyond the end", [][]byte{last, at(pieces[1], 8000, true)}},
		{"end before what is there", [][]byte{at(pieces[1], 8000, true), last}},
		{"not a multiple of 8", [][]byte{pieces[0], func() []byte {
			f := pieces[1][: len(pieces[1])-1 : len(pieces[1])-1]
			f = bytes.Clone(f)
			binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
			return f
		}()}},
		{"nothing in it", [][]byte{pieces[0], func() []byte {
			f := bytes.Clone(at(pieces[1], 1000, true)[:20])
			binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
			return f
		}()}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var r Reassembler
			for n, f := range tc.in {
				whole, err := add(t, &r, now, f)
				if refused := errors.Is(err, ErrFragment); refused != (n == len(tc.in)-1) || whole != nil {
					t.Fatalf("fragment %d: %v, %v", n, whole, err)
				}
				checkBooks(t, &r)
			}
			if len(r.pending) != 0 {
				t.Error("the packet is still there")
			}
		})
	}
}

// S14: neither many packets, nor many bytes, nor many small pieces take more
// than the limits.
func TestReassembleBounds(t *testing.T) {
	now := time.Unix(1, 0)
	large := fragments4(build(protoUDP, a4, b4, udp(1, 2, string(make([]byte, 60_000)))), 50_000)[0]
	small := fragments4(build(protoUDP, a4, b4, udp(1, 2, string(make([]byte, 100)))), 8)[0]
	t.Run("large", func(t *testing.T) {
		var r Reassembler
		for id := range 200 {
			binary.BigEndian.PutUint16(large[4:], uint16(id))
			if _, err := add(t, &r, now, large); err != nil {
				t.Fatal(err)
			}
			checkBooks(t, &r)
		}
	})
	t.Run("small", func(t *testing.T) {
		var r Reassembler
		refused := 0
		for n := range 8000 {
			binary.BigEndian.PutUint16(small[6:], 0x2000|uint16(n))
			if _, err := add(t, &r, now, small); err != nil {
				refused++
			}
			checkBooks(t, &r)
			for _, p := range r.pending {
				if len(p.pieces) > maxPieces {
					t.Fatalf("%d pieces", len(p.pieces))
				}
			}
		}
		if refused == 0 {
			t.Error("8000 pieces of one packet were all taken")
		}
	})
	t.Run("the newest survives the flood", func(t *testing.T) {
		var r Reassembler
		pieces := fragments6(build(protoUDP, a6, b6, udp(1, 2, string(make([]byte, 2000)))), 1000)
		for id := range 1000 {
			binary.BigEndian.PutUint16(small[4:], uint16(id))
			binary.BigEndian.PutUint16(small[6:], 0x2000)
			add(t, &r, now.Add(time.Duration(id)), small)
		}
		var got []byte
		for _, p := range pieces {
			got, _ = add(t, &r, now.Add(time.Second), p)
		}
		if got == nil {
			t.Error("no packet came together")
		}
	})
}

// Packets of equal numbers from others, and of other protocols, stay apart.
func TestReassembleKeys(t *testing.T) {
	now := time.Unix(1, 0)
	var r Reassembler
	payload := string(make([]byte, 100))
	for _, ip := range [][]byte{
		build(protoUDP, a4, b4, udp(1, 2, payload)), build(protoUDP, b4, a4, udp(1, 2, payload)),
		build(protoTCP, a4, b4, tcp(1, 2, 2, 0, 0, payload)),
	} {
		if _, err := add(t, &r, now, fragments4(ip, 64)[0]); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.pending) != 3 {
		t.Errorf("%d packets, want 3", len(r.pending))
	}
}
