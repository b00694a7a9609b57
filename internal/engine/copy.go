package engine

import (
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nodetun/nodetun/endpoint"
	"github.com/nodetun/nodetun/netstack"
)

// Sizes of copy buffers: a flow that fills its buffer gets one that is worth
// its system calls, a quiet one none at all.
const (
	smallCopy = 8 << 10
	largeCopy = 256 << 10
)

var (
	smallBuffers = sync.Pool{New: func() any { b := make([]byte, smallCopy); return &b }}
	largeBuffers = sync.Pool{New: func() any { b := make([]byte, largeCopy); return &b }}
)

// source is what is copied: of the program on this host, or of the peer.
type source interface {
	// await waits until there is something to read, an end or an error too.
	await()
	// read is as that of io.Reader. One that is patient gives up after idleAfter, with errIdle.
	read(b []byte, patient bool) (int, error)
	// end is called when nothing is read any more.
	end()
}

// errIdle says that nothing came for a while.
var errIdle = errors.New("nothing to read")

// fromHost is the source that a program on this host is.
type fromHost struct{ *netstack.Flow }

func (s fromHost) await() { s.Await(0) }

func (s fromHost) read(b []byte, patient bool) (int, error) {
	if patient && !s.Await(idleAfter) {
		return 0, errIdle
	}
	return s.Read(b)
}

func (fromHost) end() {}

// fromPeer is the source that a stream of the peer is. A deadline in force would cost QUIC a
// timer whenever it waits, so there is one only when nothing has come for long.
type fromPeer struct {
	*endpoint.Stream
	busy  atomic.Bool // something came since look looked
	timer *time.Timer // calls look while reads are patient
	looks bool        // it runs
}

func newFromPeer(stream *endpoint.Stream) *fromPeer {
	s := &fromPeer{Stream: stream}
	s.timer = time.AfterFunc(time.Hour, s.look)
	s.timer.Stop()
	return s
}

// look ends a read that has waited for long.
func (s *fromPeer) look() {
	if s.busy.Swap(false) {
		s.timer.Reset(idleAfter)
		return
	}
	_ = s.SetReadDeadline(time.Unix(1, 0))
}

func (s *fromPeer) await() {
	var first [1]byte
	_, _ = s.Peek(first[:])
}

func (s *fromPeer) read(b []byte, patient bool) (int, error) {
	if patient && !s.looks {
		s.looks = true
		s.busy.Store(true)
		s.timer.Reset(idleAfter)
	}
	n, err := s.Read(b)
	s.busy.Store(true)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		s.looks = false
		_ = s.SetReadDeadline(time.Time{})
		if err = errIdle; n > 0 {
			err = nil
		}
	}
	return n, err
}

func (s *fromPeer) end() { s.timer.Stop() }

// speed is the right of one direction of a flow to large buffers: one to copy with, and
// those of netstack.
type speed struct {
	budget *budget
	// buffers sets the size of those of netstack; it reports false if they hold too much
	// to become smaller.
	buffers func(bytes int) bool
	taken   bool
}

// speedBytes is what it costs.
const speedBytes = largeCopy + netstack.LargeBuffer

// idleAfter is how long a fast flow may be silent before it gives its buffers back.
const idleAfter = 5 * time.Second

func (s *speed) take() {
	if s.taken || !s.budget.Take(speedBytes) {
		return
	}
	s.taken = true
	s.buffers(netstack.LargeBuffer)
}

func (s *speed) give() {
	if s.taken && s.buffers(netstack.SmallBuffer) {
		s.drop()
	}
}

// drop gives back what a flow took that has ended.
func (s *speed) drop() {
	if s.taken {
		s.taken = false
		s.budget.Give(speedBytes)
	}
}

// copyGrowing copies until src ends or one of the two fails. Buffers are held only while
// something is in them: small ones at first. A flow has a large one once a read has filled
// that, until it is silent.
func copyGrowing(dst io.Writer, src source, count counter, fast *speed) (read, write error) {
	defer fast.drop()
	defer src.end()
	for {
		pool := &largeBuffers
		if !fast.taken {
			src.await()
			pool = &smallBuffers
		}
		buf := pool.Get().(*[]byte)
		n, err := src.read(*buf, fast.taken)
		if n > 0 {
			count.Add(uint64(n))
			_, write = dst.Write((*buf)[:n])
		}
		pool.Put(buf)
		switch {
		case write != nil:
			return nil, write
		case errors.Is(err, io.EOF):
			return nil, nil
		case errors.Is(err, errIdle):
			fast.give()
		case err != nil:
			return err, nil
		case n == smallCopy:
			fast.take()
		}
	}
}
