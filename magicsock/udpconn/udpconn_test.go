package udpconn

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// loopback opens a pair on the loopback addresses.
func loopback(t testing.TB) *Pair {
	t.Helper()
	p, err := Open(Config{
		Bind4: netip.MustParseAddrPort("127.0.0.1:0"),
		Bind6: netip.MustParseAddrPort("[::1]:0"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func messages(n int) []Message {
	ms := make([]Message, n)
	for i := range ms {
		ms[i].Buf = make([]byte, MaxMessage)
	}
	return ms
}

// read collects want bytes and reports the largest number of packets that
// came in one message.
func read(t testing.TB, c *Conn, want int) (data []byte, last Message, packets int) {
	t.Helper()
	ms := messages(MaxBatch)
	c.SetReadDeadline(time.Now().Add(time.Minute))
	for len(data) < want {
		n, err := c.Read(ms)
		if err != nil {
			t.Fatalf("read after %d of %d bytes: %v", len(data), want, err)
		}
		for _, m := range ms[:n] {
			data = append(data, m.Buf[:m.N]...)
			packets = max(packets, (m.N+m.Seg-1)/m.Seg)
			last = m
		}
	}
	return data, last, packets
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7 / 3)
	}
	return b
}

func TestOpenSamePort(t *testing.T) {
	p := loopback(t)
	if p.V4 == nil || p.V6 == nil {
		t.Skipf("host lacks a family: %v, %v", p.Err4, p.Err6)
	}
	if a, b := p.V4.LocalAddr(), p.V6.LocalAddr(); a.Port() != b.Port() {
		t.Errorf("ports differ: %s, %s", a, b)
	}
}

func TestOpenPortInUse(t *testing.T) {
	first := loopback(t)
	_, err := Open(Config{Bind4: first.V4.LocalAddr(), Bind6: netip.MustParseAddrPort("[::1]:0")})
	if !errors.Is(err, ErrPortInUse) {
		t.Errorf("second bind: %v, want ErrPortInUse", err)
	}
}

func TestOpenRefusesWrongFamily(t *testing.T) {
	for _, cfg := range []Config{
		{Bind4: netip.MustParseAddrPort("[::1]:0")},
		{Bind6: netip.MustParseAddrPort("127.0.0.1:0")},
		{Bind6: netip.MustParseAddrPort("[::ffff:127.0.0.1]:0")},
		{Bind4: netip.MustParseAddrPort("192.0.2.1:0")}, // not an address of this host
	} {
		if p, err := Open(cfg); err == nil {
			p.Close()
			t.Errorf("%v: no error", cfg)
		}
	}
}

func TestBatchArrivesWholeAndInOrder(t *testing.T) {
	a, b := loopback(t), loopback(t)
	for _, pair := range []struct {
		name     string
		from, to *Conn
	}{{"ipv4", a.V4, b.V4}, {"ipv6", a.V6, b.V6}} {
		t.Run(pair.name, func(t *testing.T) {
			if pair.from == nil {
				t.Skip("no such family here")
			}
			want := pattern(40*1200 + 77)
			if err := pair.from.Write(want, 1200, 0, pair.to.LocalAddr()); err != nil {
				t.Fatal(err)
			}
			got, m, packets := read(t, pair.to, len(want))
			if !bytes.Equal(got, want) {
				t.Error("bytes differ")
			}
			if m.From != pair.from.LocalAddr() {
				t.Errorf("source %s, want %s", m.From, pair.from.LocalAddr())
			}
			if s := pair.from.Stats(); s.TxPackets != 41 || s.TxBytes != uint64(len(want)) {
				t.Errorf("sender counted %+v", s)
			}
			if s := pair.to.Stats(); s.RxPackets != 41 || s.RxBytes != uint64(len(want)) {
				t.Errorf("receiver counted %+v", s)
			}
			if !offload(pair.from) {
				return
			}
			if s := pair.from.Stats(); s.TxGSO != 1 || s.TxCalls != 1 {
				t.Errorf("no segmentation offload: %+v", s)
			}
			if packets < 2 {
				t.Errorf("no receive offload: %+v", pair.to.Stats())
			}
		})
	}
}

func offload(c *Conn) bool { return !c.cur.Load().noGSO.Load() }

// A device that cannot segment answers EIO; from then on packets go one by one.
func TestWithoutSegmentation(t *testing.T) {
	a, b := loopback(t), loopback(t)
	a.V4.cur.Load().noGSO.Store(true)
	want := pattern(5*1000 + 1)
	if err := a.V4.Write(want, 1000, 0, b.V4.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	got, _, _ := read(t, b.V4, len(want))
	if !bytes.Equal(got, want) {
		t.Error("bytes differ")
	}
	if s := a.V4.Stats(); s.TxGSO != 0 || s.TxPackets != 6 || s.TxCalls != 6 {
		t.Errorf("counted %+v", s)
	}
}

func TestTooLargeIsCountedNotReported(t *testing.T) {
	a, b := loopback(t), loopback(t)
	if err := a.V4.Write(make([]byte, 65530), 0, 0, b.V4.LocalAddr()); err != nil {
		t.Errorf("write: %v", err)
	}
	if s := a.V4.Stats(); s.TooBig != 1 || s.TxPackets != 0 {
		t.Errorf("counted %+v", s)
	}
}

func TestUnreachableIsReported(t *testing.T) {
	a := loopback(t)
	// Bound to loopback: the kernel refuses a destination elsewhere.
	err := a.V4.Write([]byte("x"), 0, 0, netip.MustParseAddrPort("192.0.2.1:9"))
	if err == nil || errors.Is(err, net.ErrClosed) {
		t.Errorf("write: %v", err)
	}
	if s := a.V4.Stats(); s.TxErrors != 1 {
		t.Errorf("counted %+v", s)
	}
}

func TestECNTravels(t *testing.T) {
	a, b := loopback(t), loopback(t)
	if !offload(a.V4) {
		t.Skip("this system hands no control messages up")
	}
	for _, pair := range [][2]*Conn{{a.V4, b.V4}, {a.V6, b.V6}} {
		if pair[0] == nil {
			continue
		}
		for ecn := range uint8(4) {
			if err := pair[0].Write([]byte("hello"), 0, ecn, pair[1].LocalAddr()); err != nil {
				t.Fatal(err)
			}
			_, m, _ := read(t, pair[1], 5)
			if m.TOS&3 != ecn {
				t.Errorf("%s: ecn %d arrived as %d", pair[0].network, ecn, m.TOS)
			}
		}
	}
}

func TestReadDeadlineWakesReader(t *testing.T) {
	a := loopback(t)
	done := make(chan error, 1)
	go func() {
		_, err := a.V4.Read(messages(1))
		done <- err
	}()
	a.V4.SetReadDeadline(time.Unix(1, 0))
	if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read ended with %v", err)
	}
}

func TestCloseEndsReadAndWrite(t *testing.T) {
	a := loopback(t)
	done := make(chan error, 1)
	go func() {
		_, err := a.V4.Read(messages(1))
		done <- err
	}()
	a.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("read ended with %v", err)
	}
	if err := a.V4.Write([]byte("x"), 0, 0, a.V4.LocalAddr()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write ended with %v", err)
	}
	if err := a.V4.Rebind(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("rebind ended with %v", err)
	}
}

func TestRebindKeepsPortAndReader(t *testing.T) {
	a, b := loopback(t), loopback(t)
	before := a.V4.LocalAddr()
	got := make(chan string, 1)
	go func() {
		ms := messages(1)
		n, err := a.V4.Read(ms)
		if n != 1 || err != nil {
			got <- err.Error()
			return
		}
		got <- string(ms[0].Buf[:ms[0].N])
	}()
	if err := a.Rebind(); err != nil {
		t.Fatal(err)
	}
	if after := a.V4.LocalAddr(); after != before {
		t.Errorf("port moved from %s to %s", before, after)
	}
	if err := b.V4.Write([]byte("after"), 0, 0, before); err != nil {
		t.Fatal(err)
	}
	if s := <-got; s != "after" {
		t.Errorf("reader got %q", s)
	}
}

func TestTryReadDoesNotWait(t *testing.T) {
	a := loopback(t)
	if n, err := a.V4.TryRead(messages(1)); n != 0 || err != nil {
		t.Errorf("TryRead = %d, %v", n, err)
	}
}

func TestMarkNeedsNoPermissionToOpen(t *testing.T) {
	p, err := Open(Config{
		Bind4: netip.MustParseAddrPort("127.0.0.1:0"), Bind6: netip.MustParseAddrPort("[::1]:0"),
		Mark: 0x6e6f, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
}

func TestNoAllocations(t *testing.T) {
	a, b := loopback(t), loopback(t)
	data := pattern(4 * 1200)
	ms := messages(MaxBatch)
	to := b.V4.LocalAddr()
	b.V4.SetReadDeadline(time.Now().Add(time.Minute))
	if n := testing.AllocsPerRun(200, func() {
		if err := a.V4.Write(data, 1200, 2, to); err != nil {
			t.Fatal(err)
		}
		if _, err := b.V4.Read(ms); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations per write and read", n)
	}
}

func BenchmarkLoopback(b *testing.B) {
	for _, bench := range []struct {
		name      string
		size, seg int
	}{{"single", 1452, 1452}, {"batch14", 14 * 1452, 1452}, {"batch43", 43 * 1452, 1452}} {
		b.Run(bench.name, func(b *testing.B) {
			x, y := loopback(b), loopback(b)
			data, ms, to := pattern(bench.size), messages(MaxBatch), y.V4.LocalAddr()
			b.SetBytes(int64(bench.size))
			b.ReportAllocs()
			for b.Loop() {
				if err := x.V4.Write(data, bench.seg, 0, to); err != nil {
					b.Fatal(err)
				}
				for got := 0; got < bench.size; {
					n, err := y.V4.Read(ms)
					if err != nil {
						b.Fatal(err)
					}
					for _, m := range ms[:n] {
						got += m.N
					}
				}
			}
		})
	}
}

// Who names one address wants nothing to listen elsewhere.
func TestOneFamilyAlone(t *testing.T) {
	for _, tc := range []struct {
		name   string
		cfg    Config
		v4, v6 bool
	}{
		{"IPv4 loopback", Config{Bind4: netip.MustParseAddrPort("127.0.0.1:0")}, true, false},
		{"IPv6 loopback", Config{Bind6: netip.MustParseAddrPort("[::1]:0")}, false, true},
		{"all of IPv4", Config{Bind4: netip.MustParseAddrPort("0.0.0.0:0")}, true, true},
		{"nothing named", Config{}, true, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := Open(tc.cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			if (p.V4 != nil) != tc.v4 || (p.V6 != nil) != tc.v6 {
				t.Errorf("IPv4 %v, IPv6 %v; want %v, %v", p.V4 != nil, p.V6 != nil, tc.v4, tc.v6)
			}
		})
	}
}
