package engine

import (
	"errors"
	"io"
	"os"
	"sync"
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
	io.Reader
	// await waits until there is something to read, an end or an error too. It reports
	// false when that took longer than the patience, which is endless if zero.
	await(patience time.Duration) bool
}

// fromHost is the source that a program on this host is.
type fromHost struct{ *netstack.Flow }

func (s fromHost) await(patience time.Duration) bool { return s.Await(patience) }

// fromPeer is the source that a stream of the peer is.
type fromPeer struct{ *endpoint.Stream }

func (s fromPeer) await(patience time.Duration) bool {
	if patience > 0 {
		_ = s.SetReadDeadline(time.Now().Add(patience))
		defer s.SetReadDeadline(time.Time{})
	}
	var first [1]byte
	_, err := s.Peek(first[:])
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

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

// await waits for the source; a fast flow that is silent becomes an ordinary one.
func (s *speed) await(src source) {
	for s.taken && !src.await(idleAfter) {
		s.give()
	}
	if !s.taken {
		src.await(0)
	}
}

// copyGrowing copies until src ends or one of the two fails. Buffers are held only while
// something is in them: small ones at first, large ones once a read has filled that.
func copyGrowing(dst io.Writer, src source, count counter, fast *speed) (read, write error) {
	defer fast.drop()
	for {
		fast.await(src)
		pool := &smallBuffers
		if fast.taken {
			pool = &largeBuffers
		}
		buf := pool.Get().(*[]byte)
		n, err := src.Read(*buf)
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
		case err != nil:
			return err, nil
		case n == smallCopy:
			fast.take()
		}
	}
}
