package relay

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/nodetun/nodetun/identity"
)

func TestReaderCopesWithAnyCut(t *testing.T) {
	var stream []byte
	var sizes []int
	for _, n := range []int{0, 1, 1200, 3, MaxPayload, 16 << 10, 0, MaxBatch, 40000, 7} {
		sizes = append(sizes, n)
		stream = AppendPacket(stream, TypeSendPacket, identity.NodeID{byte(n)}, bytes.Repeat([]byte{byte(n)}, n))
	}
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"whole":    func(r io.Reader) io.Reader { return r },
		"bytewise": iotest.OneByteReader,
		"half":     iotest.HalfReader,
		"data+eof": iotest.DataErrReader,
	} {
		t.Run(name, func(t *testing.T) {
			r := NewReader(wrap(bytes.NewReader(stream[100:])), stream[:100])
			for _, n := range sizes {
				typ, body, err := r.Next()
				if err != nil || typ != TypeSendPacket || !bytes.Equal(body[KeyLen:], bytes.Repeat([]byte{byte(n)}, n)) {
					t.Fatalf("%d: %v of %d bytes, %v", n, typ, len(body), err)
				}
			}
			if _, _, err := r.Next(); !errors.Is(err, io.EOF) {
				t.Fatalf("at the end: %v", err)
			}
		})
	}
}

func TestReaderEndsWithinFrame(t *testing.T) {
	frame := AppendPing(nil, [8]byte{})
	for n := 1; n < len(frame); n++ {
		if _, _, err := NewReader(bytes.NewReader(frame[:n]), nil).Next(); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
}

// A connection that has become idle gives its memory back.
func TestReaderBufferGrowsAndShrinks(t *testing.T) {
	pr, pw := io.Pipe()
	go func() {
		big := AppendPacket(nil, TypeSendPacket, identity.NodeID{}, make([]byte, MaxBatch))
		for range 100 {
			_, _ = pw.Write(big)
		}
		for range 200 {
			_, _ = pw.Write(AppendPing(nil, [8]byte{}))
		}
		_ = pw.Close()
	}()
	r := NewReader(pr, nil)
	most := 0
	for {
		if _, _, err := r.Next(); err != nil {
			break
		}
		most = max(most, len(r.buf))
	}
	if most < MaxBatch || most > maxReadBuffer || len(r.buf) > minReadBuffer {
		t.Errorf("buffer had at most %d bytes and has %d", most, len(r.buf))
	}
}

func BenchmarkReader(b *testing.B) {
	for name, size := range map[string]int{"1200": 1202, "16K": 16 << 10} {
		b.Run(name, func(b *testing.B) {
			frame := AppendPacket(nil, TypeSendPacket, identity.NodeID{}, make([]byte, size))
			stream := bytes.Repeat(frame, 64)
			source := &endless{b: stream}
			r := NewReader(source, nil)
			b.SetBytes(int64(len(frame)))
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := r.Next(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// endless repeats b for ever.
type endless struct {
	b  []byte
	at int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.b[e.at:])
	e.at = (e.at + n) % len(e.b)
	return n, nil
}

func TestReaderDoesNotAllocate(t *testing.T) {
	frame := AppendPacket(nil, TypeSendPacket, identity.NodeID{}, make([]byte, 1200))
	r := NewReader(&endless{b: frame}, nil)
	next := func() {
		if _, _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
	}
	for range 2000 {
		next()
	}
	if n := testing.AllocsPerRun(2000, next); n != 0 {
		t.Errorf("%v allocations per frame", n)
	}
}
