package outage

import (
	"io"
	"time"
)

const (
	// spillAfter is how long a write to the peer is held up before what the host
	// sends meanwhile is taken in.
	spillAfter = time.Second
	spillLimit = 256 << 10
	spillRead  = 16 << 10
)

// Spill writes to a peer what is read from the host, and goes on reading while a
// write is held up. netstack counts what it holds by segments: many small ones fill
// it long before the window that it has told the host, and then it drops without a
// word. The host's TCP would wait up to two minutes before it tries again, although
// the peer is back. Here 256 KiB are held whatever their segments, as long as the budget has them.
type Spill struct {
	dst   io.Writer
	src   Source
	count Counter // of what is read here
	timer *time.Timer
	stop  chan struct{} // closed when the write is over
	ended chan struct{} // one token when take has returned

	// Full is called when no more is taken in, Over when the write that was held up
	// then is done. Both may be nil.
	Full, Over func()
	isFull     bool // take's while it runs

	// held was read meanwhile; it is take's while that runs. It is paid from budget.
	held   []byte
	budget Budget
}

// Source is what the host says on a flow. A read ends when stop is closed, with 0 and no
// error if nothing came.
type Source interface {
	ReadUntil(stop <-chan struct{}, b []byte) (int, error)
}

// Counter adds up bytes; *atomic.Uint64 is one.
type Counter interface{ Add(n uint64) uint64 }

// Budget says how many bytes may be held in all flows together.
type Budget interface {
	Take(n int) bool // reserves n bytes, if there are as many
	Give(n int)
}

// NewSpill returns one that writes to dst what its caller reads from src.
func NewSpill(dst io.Writer, src Source, count Counter, b Budget) *Spill {
	s := &Spill{dst: dst, src: src, count: count, budget: b, stop: make(chan struct{}), ended: make(chan struct{}, 1)}
	s.timer = time.AfterFunc(time.Hour, s.take)
	s.timer.Stop()
	return s
}

// Write writes b, and all that was read from the host while it was held up. An
// error or the end that was read comes again at the next read.
func (s *Spill) Write(b []byte) (int, error) {
	if err := s.write(b); err != nil {
		return 0, err
	}
	for len(s.held) > 0 {
		held := s.held
		s.held = nil
		err := s.write(held)
		s.budget.Give(len(held))
		if err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

// Drop gives back what is held and will not be written.
func (s *Spill) Drop() {
	s.budget.Give(len(s.held))
	s.held = nil
}

func (s *Spill) write(b []byte) error {
	s.timer.Reset(spillAfter)
	_, err := s.dst.Write(b)
	if !s.timer.Stop() { // take runs, or has run
		close(s.stop)
		<-s.ended
		s.stop = make(chan struct{})
	}
	if s.isFull {
		s.isFull = false
		if s.Over != nil {
			s.Over()
		}
	}
	return err
}

// take reads until the write is over or enough is held.
func (s *Spill) take() {
	defer func() { s.ended <- struct{}{} }()
	buf := make([]byte, spillRead)
	for len(s.held) < spillLimit && s.budget.Take(spillRead) {
		n, err := s.src.ReadUntil(s.stop, buf)
		s.budget.Give(spillRead - n)
		if n == 0 || err != nil {
			return
		}
		s.count.Add(uint64(n))
		s.held = append(s.held, buf[:n]...)
	}
	s.isFull = true
	if s.Full != nil {
		s.Full()
	}
}
