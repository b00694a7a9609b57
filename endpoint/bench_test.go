package endpoint

import (
	"io"
	"sync"
	"testing"
	"time"
)

// BenchmarkStream measures one stream between two endpoints of one process on
// loopback: both ends share the machine's CPUs.
func BenchmarkStream(b *testing.B) {
	const size = 256 << 20
	x, y := start(b, loopback()), start(b, loopback())
	dialled, accepted := connect(b, x, y)
	transfer(b, dialled, accepted, 32<<20)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		transfer(b, dialled, accepted, size)
	}
	b.ReportMetric(float64(b.N)*size*8/b.Elapsed().Seconds()/1e9, "Gbit/s")
}

// transfer sends n bytes on one stream and waits until they have arrived.
func transfer(b *testing.B, from, to *Connection, n int64) {
	b.Helper()
	ctx := b.Context()
	var writing sync.WaitGroup
	writing.Go(func() {
		s, err := from.OpenUniStream(ctx)
		if err != nil {
			b.Error(err)
			return
		}
		defer s.Close()
		buf := make([]byte, 256<<10)
		for left := n; left > 0; {
			k, err := s.Write(buf[:min(left, int64(len(buf)))])
			if err != nil {
				b.Error(err)
				return
			}
			left -= int64(k)
		}
	})
	s, err := to.AcceptUniStream(ctx)
	if err != nil {
		b.Fatal(err)
	}
	s.SetReadDeadline(time.Now().Add(time.Minute))
	got, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, s, make([]byte, 256<<10))
	if err != nil || got != n {
		b.Fatalf("%d bytes of %d: %v", got, n, err)
	}
	writing.Wait()
}

// BenchmarkRoundTrip measures a small request and its answer, each time on a
// new stream.
func BenchmarkRoundTrip(b *testing.B) {
	x, y := start(b, loopback()), start(b, loopback())
	dialled, accepted := connect(b, x, y)
	go echoStreams(accepted)
	request := randomBytes(64)
	ctx := withTimeout(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := echoOnce(ctx, dialled, request); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDatagram measures datagrams of 1100 bytes there and back, 16 on the
// way at a time.
func BenchmarkDatagram(b *testing.B) {
	x, y := start(b, loopback()), start(b, loopback())
	dialled, accepted := connect(b, x, y)
	go echoDatagrams(accepted)
	datagram := randomBytes(1100)
	ctx := b.Context()
	for range 16 {
		_ = dialled.SendDatagram(datagram)
	}
	b.SetBytes(int64(len(datagram)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := dialled.ReceiveDatagram(ctx); err != nil {
			b.Fatal(err)
		}
		_ = dialled.SendDatagram(datagram)
	}
}

// BenchmarkHandshake measures a connection from dial to accept.
func BenchmarkHandshake(b *testing.B) {
	x, y := start(b, loopback()), start(b, loopback())
	b.ReportAllocs()
	for b.Loop() {
		dialled, _ := connect(b, x, y)
		dialled.Close(0, "")
	}
}

func BenchmarkMaxDatagramSize(b *testing.B) {
	x, y := start(b, loopback()), start(b, loopback())
	dialled, _ := connect(b, x, y)
	b.ReportAllocs()
	for b.Loop() {
		dialled.MaxDatagramSize()
	}
}
