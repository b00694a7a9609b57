package records

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"sync"
	"testing"
	"time"
)

var epoch0 = time.Unix(1_700_000_000, 0)

// pair makes the two ends of a connection; a seals what b opens and back.
type pair struct {
	aSeal, bSeal *Sealer
	aOpen, bOpen *Opener
}

func master() []byte { return bytes.Repeat([]byte{0x5a}, MasterLen) }

func newPair(t testing.TB, suite uint16, shift uint) pair {
	t.Helper()
	var p pair
	var err error
	if p.aSeal, p.aOpen, err = New(Config{Suite: suite, Master: master(), Client: true, Send: 0x0b0b0b, Receive: 0x0a0a0a, shift: shift}); err != nil {
		t.Fatal(err)
	}
	if p.bSeal, p.bOpen, err = New(Config{Suite: suite, Master: master(), Send: 0x0a0a0a, Receive: 0x0b0b0b, shift: shift}); err != nil {
		t.Fatal(err)
	}
	return p
}

// seal makes the next record.
func seal(t testing.TB, s *Sealer, packet []byte) []byte {
	t.Helper()
	seq, err := s.Reserve(1)
	if err != nil {
		t.Fatal(err)
	}
	record, err := s.Seal(nil, seq, packet)
	if err != nil {
		t.Fatal(err)
	}
	return record
}

func mustOpen(t testing.TB, o *Opener, record, want []byte) {
	t.Helper()
	got, err := o.Open(nil, record, epoch0)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("open: %q, %v; want %q", got, err, want)
	}
}

func refuse(t testing.TB, o *Opener, record []byte, want error) {
	t.Helper()
	if got, err := o.Open(nil, record, epoch0); !errors.Is(err, want) || len(got) != 0 {
		t.Fatalf("open: %q, %v; want %v", got, err, want)
	}
}

// hkdfOne is HKDF-Expand for outputs of one block (RFC 5869 2.3), by hand.
func hkdfOne(secret []byte, info string, n int) []byte {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte(info))
	h.Write([]byte{1})
	return h.Sum(nil)[:n]
}

// A record is what the layout says, computed here step by step.
func TestKnownAnswer(t *testing.T) {
	p := newPair(t, tls.TLS_AES_128_GCM_SHA256, 1) // two numbers an epoch
	packet := []byte("an IP packet")
	for seq := range uint64(5) {
		got := seal(t, p.aSeal, packet)

		s := hkdfOne(master(), "dir c2s", 32)
		for range seq >> 1 {
			s = hkdfOne(s, "next", 32)
		}
		block, err := aes.NewCipher(hkdfOne(s, "key", 16))
		if err != nil {
			t.Fatal(err)
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			t.Fatal(err)
		}
		nonce := hkdfOne(s, "iv", 12)
		for i, b := range binary.BigEndian.AppendUint64(nil, seq) {
			nonce[4+i] ^= b
		}
		head := binary.BigEndian.AppendUint64([]byte{0x20 | byte(seq>>1), 0x0b, 0x0b, 0x0b}, seq)
		want := aead.Seal(head, nonce, packet, head)
		if !bytes.Equal(got, want) {
			t.Errorf("record %d:\n%x, want\n%x", seq, got, want)
		}
	}
}

func TestBothDirectionsAndSuites(t *testing.T) {
	for _, suite := range []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384, tls.TLS_CHACHA20_POLY1305_SHA256} {
		t.Run(tls.CipherSuiteName(suite), func(t *testing.T) {
			p := newPair(t, suite, 0)
			for _, packet := range [][]byte{[]byte("one"), {}, bytes.Repeat([]byte{9}, 1400)} {
				there, back := seal(t, p.aSeal, packet), seal(t, p.bSeal, packet)
				if len(there) != len(packet)+Overhead {
					t.Errorf("record of %d bytes for %d", len(there), len(packet))
				}
				if bytes.Equal(there[HeaderLen:], back[HeaderLen:]) {
					t.Error("both directions use one key")
				}
				mustOpen(t, p.bOpen, there, packet)
				mustOpen(t, p.aOpen, back, packet)
			}
			refuse(t, p.aOpen, seal(t, p.aSeal, []byte("reflected")), ErrForged)
		})
	}
}

func TestSealAndOpenInPlace(t *testing.T) {
	p := newPair(t, tls.TLS_AES_128_GCM_SHA256, 0)
	buf := make([]byte, 2048)
	packet := append(buf[HeaderLen:HeaderLen], "in place"...)
	seq, _ := p.aSeal.Reserve(1)
	record, err := p.aSeal.Seal(buf[:0], seq, packet)
	if err != nil || &record[0] != &buf[0] {
		t.Fatalf("sealed elsewhere: %v", err)
	}
	got, err := p.bOpen.Open(record[HeaderLen:HeaderLen], record, epoch0)
	if err != nil || string(got) != "in place" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestReplayOrderAndAge(t *testing.T) {
	p := newPair(t, tls.TLS_AES_128_GCM_SHA256, 0)
	var list [][]byte
	for range windowBits + 200 {
		list = append(list, seal(t, p.aSeal, []byte("x")))
	}
	mustOpen(t, p.bOpen, list[3], []byte("x"))
	mustOpen(t, p.bOpen, list[1], []byte("x")) // out of order
	refuse(t, p.bOpen, list[3], ErrReplay)
	refuse(t, p.bOpen, list[1], ErrReplay)
	mustOpen(t, p.bOpen, list[8192], []byte("x"))
	mustOpen(t, p.bOpen, list[2], []byte("x")) // 8190 back is still told apart
	mustOpen(t, p.bOpen, list[windowBits+100], []byte("x"))
	refuse(t, p.bOpen, list[2], ErrReplay) // too old
	refuse(t, p.bOpen, list[4], ErrReplay) // never came, but too old to tell
	if f := p.bOpen.Failures(); f.Replay != 4 {
		t.Errorf("%+v", f)
	}
}

// A forged record moves neither keys nor window.
func TestForgedMovesNothing(t *testing.T) {
	p := newPair(t, tls.TLS_AES_128_GCM_SHA256, 4)
	good := seal(t, p.aSeal, []byte("x"))
	forged := bytes.Clone(good)
	binary.BigEndian.PutUint64(forged[4:], 20) // epoch 1
	forged[0] = firstByte | 1
	refuse(t, p.bOpen, forged, ErrForged)
	mustOpen(t, p.bOpen, good, []byte("x"))
	if epoch := p.bOpen.keys.Load().epoch; epoch != 0 {
		t.Errorf("epoch %d", epoch)
	}
}

func TestBitFlipsAndTruncation(t *testing.T) {
	p := newPair(t, tls.TLS_AES_128_GCM_SHA256, 0)
	record := seal(t, p.aSeal, []byte("packet"))
	for i := range record {
		for bit := range 8 {
			bad := bytes.Clone(record)
			bad[i] ^= 1 << bit
			if got, err := p.bOpen.Open(nil, bad, epoch0); err == nil {
				t.Errorf("byte %d bit %d: opened to %q", i, bit, got)
			}
		}
	}
	for n := range len(record) {
		if _, err := p.bOpen.Open(nil, record[:n], epoch0); err == nil {
			t.Errorf("%d bytes opened", n)
		}
	}
	refuse(t, p.bOpen, make([]byte, MaxLen+1), ErrShort)
	mustOpen(t, p.bOpen, record, []byte("packet"))
}

func TestEpochsWrapAndOverlap(t *testing.T) {
	p := newPair(t, tls.TLS_AES_128_GCM_SHA256, 2) // four numbers an epoch
	var last []byte
	for n := range 4 * 40 { // the low bits of the epoch wrap twice
		record := seal(t, p.aSeal, []byte{byte(n)})
		if n%4 == 0 && last != nil { // the last of an epoch comes after the first of the next
			mustOpen(t, p.bOpen, record, []byte{byte(n)})
			mustOpen(t, p.bOpen, last, []byte{byte(n - 1)})
			last = nil
			continue
		}
		if n%4 == 3 {
			last = record
			continue
		}
		mustOpen(t, p.bOpen, record, []byte{byte(n)})
	}
}

func TestLostEpochs(t *testing.T) {
	p := newPair(t, tls.TLS_AES_128_GCM_SHA256, 2)
	mustOpen(t, p.bOpen, seal(t, p.aSeal, []byte("a")), []byte("a"))
	for range 4 * farEpochs { // all of it is lost
		seal(t, p.aSeal, nil)
	}
	mustOpen(t, p.bOpen, seal(t, p.aSeal, []byte("b")), []byte("b"))
	for range 4 * (farEpochs + 1) {
		seal(t, p.aSeal, nil)
	}
	refuse(t, p.bOpen, seal(t, p.aSeal, []byte("c")), ErrEpoch)
}

// Records that claim a far epoch cost the making of keys: a few a second.
func TestFarTrialsAreFew(t *testing.T) {
	p := newPair(t, tls.TLS_AES_128_GCM_SHA256, 2)
	forge := func(seq uint64) []byte {
		b := make([]byte, Overhead+8)
		header(b, 0x0b0b0b, seq>>2, seq)
		return b
	}
	for n := range uint64(1000) {
		p.bOpen.Open(nil, forge(4*farEpochs+n%4), epoch0)
	}
	if f := p.bOpen.Failures(); f.Forged != farTrials || f.Epoch != 1000-farTrials {
		t.Errorf("%+v", f)
	}
	if _, err := p.bOpen.Open(nil, forge(4*farEpochs), epoch0.Add(time.Second)); !errors.Is(err, ErrForged) {
		t.Errorf("a second later: %v", err)
	}
	wrong := forge(4)
	wrong[0] ^= 2 // the bits do not agree with the number
	refuse(t, p.bOpen, wrong, ErrEpoch)
}

func TestPastConnection(t *testing.T) {
	old := newPair(t, tls.TLS_AES_128_GCM_SHA256, 0)
	record := seal(t, old.aSeal, []byte("x"))
	_, fresh, err := New(Config{Suite: tls.TLS_AES_128_GCM_SHA256, Master: bytes.Repeat([]byte{1}, MasterLen), Send: 0x0a0a0a, Receive: 0x0b0b0b})
	if err != nil {
		t.Fatal(err)
	}
	refuse(t, fresh, record, ErrForged)
}

// Eight goroutines over three borders of epochs: each number, and so each pair
// of key and nonce, is used once, and every record opens.
func TestConcurrentSealing(t *testing.T) {
	const shift, workers, each = 10, 8, 400
	p := newPair(t, tls.TLS_AES_128_GCM_SHA256, shift)
	var mu sync.Mutex
	records := make(map[uint64][]byte)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each / 4 {
				first, err := p.aSeal.Reserve(4)
				if err != nil {
					t.Error(err)
					return
				}
				for i := range uint64(4) {
					record, err := p.aSeal.Seal(nil, first+i, []byte("x"))
					if errors.Is(err, ErrKeyGone) {
						continue // overtaken by two epochs: lost, not sent under another key
					}
					mu.Lock()
					if _, twice := records[first+i]; twice {
						t.Errorf("number %d twice", first+i)
					}
					records[first+i] = record
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if last := uint64(workers*each-1) >> shift; last < 3 {
		t.Fatalf("only %d borders", last)
	}
	for seq := range uint64(workers * each) {
		if record, ok := records[seq]; ok {
			mustOpen(t, p.bOpen, record, []byte("x"))
		}
	}
}

func TestNumbersEnd(t *testing.T) {
	p := newPair(t, tls.TLS_AES_128_GCM_SHA256, 0)
	p.aSeal.seq.Store(maxSeq - 2)
	if _, err := p.aSeal.Reserve(2); err != nil {
		t.Error(err)
	}
	if _, err := p.aSeal.Reserve(1); !errors.Is(err, ErrExhausted) {
		t.Errorf("%v", err)
	}
}

func TestClose(t *testing.T) {
	p := newPair(t, tls.TLS_AES_128_GCM_SHA256, 0)
	record := seal(t, p.aSeal, []byte("x"))
	p.aSeal.Close()
	p.bOpen.Close()
	if _, err := p.aSeal.Seal(nil, 1, nil); !errors.Is(err, ErrKeyGone) {
		t.Errorf("seal: %v", err)
	}
	if _, err := p.bOpen.Open(nil, record, epoch0); err == nil {
		t.Error("a closed Opener opened")
	}
	if p.aSeal.secret != (secret{}) || p.bOpen.secret != (secret{}) {
		t.Error("a secret is left")
	}
}

func TestNewRefuses(t *testing.T) {
	good := Config{Suite: tls.TLS_AES_128_GCM_SHA256, Send: 1, Receive: 2}
	for name, change := range map[string]func(*Config){
		"master":  func(c *Config) { c.Master = c.Master[1:] },
		"no send": func(c *Config) { c.Send = 0 },
		"receive": func(c *Config) { c.Receive = 1 << 24 },
		"suite":   func(c *Config) { c.Suite = tls.TLS_RSA_WITH_AES_128_CBC_SHA },
	} {
		cfg := good
		cfg.Master = master()
		change(&cfg)
		if _, _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if !bytes.Equal(cfg.Master, make([]byte, len(cfg.Master))) {
			t.Errorf("%s: the master is left in memory", name)
		}
	}
}

func TestIndex(t *testing.T) {
	p := newPair(t, tls.TLS_AES_128_GCM_SHA256, 0)
	if index, ok := Index(seal(t, p.aSeal, nil)); !ok || index != 0x0b0b0b {
		t.Errorf("%x, %v", index, ok)
	}
	for _, b := range [][]byte{nil, {0x20}, make([]byte, Overhead), append([]byte{0x40}, make([]byte, 50)...)} {
		if _, ok := Index(b); ok {
			t.Errorf("%x is a record", b)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	p := newPair(t, tls.TLS_AES_128_GCM_SHA256, 0)
	packet, buf, out := make([]byte, 1400), make([]byte, 0, 2048), make([]byte, 0, 2048)
	got := testing.AllocsPerRun(200, func() {
		seq, _ := p.aSeal.Reserve(1)
		record, err := p.aSeal.Seal(buf, seq, packet)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.bOpen.Open(out, record, epoch0); err != nil {
			t.Fatal(err)
		}
	})
	if got != 0 {
		t.Errorf("%v allocations a record", got)
	}
}

func BenchmarkSeal(b *testing.B) {
	p := newPair(b, tls.TLS_AES_128_GCM_SHA256, 0)
	packet, buf := make([]byte, 1400), make([]byte, 0, 2048)
	b.SetBytes(int64(len(packet)))
	b.ReportAllocs()
	for b.Loop() {
		seq, _ := p.aSeal.Reserve(1)
		p.aSeal.Seal(buf, seq, packet)
	}
}

func BenchmarkSealAndOpen(b *testing.B) {
	p := newPair(b, tls.TLS_AES_128_GCM_SHA256, 0)
	packet, buf, out := make([]byte, 1400), make([]byte, 0, 2048), make([]byte, 0, 2048)
	b.SetBytes(int64(len(packet)))
	b.ReportAllocs()
	for b.Loop() {
		seq, _ := p.aSeal.Reserve(1)
		record, _ := p.aSeal.Seal(buf, seq, packet)
		if _, err := p.bOpen.Open(out, record, epoch0); err != nil {
			b.Fatal(err)
		}
	}
}

// Whatever comes, an Opener neither panics nor opens what was not sealed.
func FuzzOpen(f *testing.F) {
	p := newPair(f, tls.TLS_AES_128_GCM_SHA256, 2)
	var sent [][]byte
	for n := range 20 {
		sent = append(sent, seal(f, p.aSeal, []byte{byte(n)}))
		f.Add(sent[n])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		q := newPair(t, tls.TLS_AES_128_GCM_SHA256, 2)
		packet, err := q.bOpen.Open(nil, b, epoch0)
		if err != nil {
			return
		}
		for _, record := range sent {
			if bytes.Equal(record, b) {
				return
			}
		}
		t.Errorf("opened %x to %x", b, packet)
	})
}
