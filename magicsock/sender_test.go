package magicsock

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/nodetun/nodetun/magicsock/udpconn"
)

// wire records what a sender sends; each send waits for a permit.
type wire struct {
	permit chan struct{}

	mu    sync.Mutex // guards sends
	sends []batch
}

func (w *wire) send(b []byte, d destination) error {
	<-w.permit
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sends = append(w.sends, batch{destination: d, data: bytes.Clone(b)})
	return nil
}

func (w *wire) sent() []batch {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sends
}

// startSender runs a sender onto a wire that is blocked until it is opened.
func startSender(t *testing.T) (*sender, *wire) {
	t.Helper()
	w := &wire{permit: make(chan struct{}, 1000)}
	s := newSender(w.send)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.run(ctx) }()
	t.Cleanup(func() { close(w.permit); cancel(); <-done })
	waitFor(t, "the writer", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.running })
	return s, w
}

var (
	there     = destination{to: netip.MustParseAddrPort("192.0.2.1:1"), seg: 1400}
	elsewhere = destination{to: netip.MustParseAddrPort("192.0.2.2:1"), seg: 1400}
)

// full is a batch that goes through the queue.
func full(fill byte) []byte { return bytes.Repeat([]byte{fill}, 14*1400) }

func TestSmallWriteIsSentAtOnce(t *testing.T) {
	s, w := startSender(t)
	w.permit <- struct{}{}
	if err := s.write([]byte("hello"), there); err != nil {
		t.Fatal(err)
	}
	if len(w.sent()) != 1 {
		t.Error("not sent when write returned")
	}
}

func TestConsecutiveWritesJoin(t *testing.T) {
	s, w := startSender(t)
	write := func(b []byte, d destination) {
		t.Helper()
		if err := s.write(b, d); err != nil {
			t.Fatal(err)
		}
	}
	write(full('a'), there) // the writer takes this one and waits for the wire
	waitFor(t, "the writer", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.busy })
	write(full('b'), there)
	write(full('c'), there)
	write([]byte("end"), there)   // fits: short, and last
	write([]byte("after"), there) // does not: the batch ends with a short packet
	write([]byte("x"), elsewhere) // another node
	marked := there               // other ECN bits
	marked.ecn = 1
	write([]byte("y"), marked)
	for range 5 {
		w.permit <- struct{}{}
	}
	waitFor(t, "all sends", func() bool { return len(w.sent()) == 5 })
	want := [][]byte{full('a'), append(append(full('b'), full('c')...), "end"...), []byte("after"), []byte("x"), []byte("y")}
	for i, b := range w.sent() {
		if !bytes.Equal(b.data, want[i]) {
			t.Errorf("send %d has %d bytes, want %d", i, len(b.data), len(want[i]))
		}
	}
}

func TestJoinedSendsStayWithinLimits(t *testing.T) {
	for _, seg := range []int{100, 1200, 1452} {
		s, w := startSender(t)
		d := there
		d.seg = seg
		size := bulk/seg*seg + seg
		for range 30 {
			w.permit <- struct{}{}
			if err := s.write(make([]byte, size), d); err != nil {
				t.Fatal(err)
			}
		}
		total := func() (n int) {
			for _, b := range w.sent() {
				n += len(b.data)
			}
			return n
		}
		waitFor(t, "all sends", func() bool { return total() == 30*size })
		for _, b := range w.sent() {
			if len(b.data) > udpconn.MaxSend {
				t.Errorf("a send of %d bytes", len(b.data))
			}
			if n := (len(b.data) + seg - 1) / seg; n > udpconn.MaxSegments && len(b.data) > size {
				t.Errorf("a send of %d packets", n)
			}
		}
	}
}

func TestFullQueueBlocksAndCloseFrees(t *testing.T) {
	s, _ := startSender(t)
	var wg sync.WaitGroup
	errs := make(chan error, 100)
	for range 100 { // 2 MB, of which the queue takes an eighth
		wg.Go(func() { errs <- s.write(full('z'), there) })
	}
	waitFor(t, "a full queue", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.queue) == queuedSends })
	s.close()
	wg.Wait()
	close(errs)
	closed := 0
	for err := range errs {
		if errors.Is(err, net.ErrClosed) {
			closed++
		} else if err != nil {
			t.Error(err)
		}
	}
	if closed < 50 {
		t.Errorf("only %d writes were turned away", closed)
	}
}

func TestWriteBeforeRunIsDirect(t *testing.T) {
	w := &wire{permit: make(chan struct{}, 1)}
	s := newSender(w.send)
	w.permit <- struct{}{}
	if err := s.write(full('a'), there); err != nil || len(w.sent()) != 1 {
		t.Errorf("write: %v, %d sends", err, len(w.sent()))
	}
}
