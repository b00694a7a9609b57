package outage

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// room is a budget without end that counts.
type room struct{ used atomic.Int64 }

func (r *room) Take(n int) bool { r.used.Add(int64(n)); return true }
func (r *room) Give(n int)      { r.used.Add(-int64(n)) }

const copySize = 64 << 10

// copyAll writes all that a host says to a peer, as the copy of a flow does.
func copyAll(dst *Spill, src Source, count Counter) error {
	for b := make([]byte, copySize); ; {
		n, err := src.ReadUntil(nil, b)
		count.Add(uint64(n))
		if n > 0 {
			if _, err := dst.Write(b[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// ticker is a host that says something every 100 ms.
type ticker struct {
	next atomic.Int64
	last int64 // then it ends
	said string
}

func (s *ticker) ReadUntil(stop <-chan struct{}, b []byte) (int, error) {
	next := s.next.Load()
	if next == s.last {
		return 0, io.EOF
	}
	select {
	case <-time.After(100 * time.Millisecond):
	case <-stop:
		return 0, nil
	}
	n := copy(b, strings.Repeat(string(rune('a'+next%26)), int(1+next%50)))
	s.next.Add(1)
	s.said += string(b[:n])
	return n, nil
}

// slow is a peer that is away for a while at the tenth write.
type slow struct {
	bytes.Buffer
	writes int
	away   time.Duration
	err    error
}

func (s *slow) Write(b []byte) (int, error) {
	if s.writes++; s.writes == 10 {
		time.Sleep(s.away)
		if s.err != nil {
			return 0, s.err
		}
	}
	return s.Buffer.Write(b)
}

// What the host sends while the peer is away is taken in, and arrives in order.
func TestSpillTakesIn(t *testing.T) {
	for _, away := range []time.Duration{0, spillAfter / 2, spillAfter, time.Minute, 10 * time.Minute} {
		t.Run(away.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src, dst := &ticker{last: 8000}, &slow{away: away}
				var count atomic.Uint64
				var held room
				done := make(chan error)
				go func() {
					done <- copyAll(NewSpill(dst, src, &count, &held), src, &count)
				}()
				time.Sleep(time.Second + away)
				synctest.Wait() // everybody sleeps
				if least := int64(away / (100 * time.Millisecond)); away > spillAfter && src.next.Load() < least {
					t.Errorf("%d times heard after %v", src.next.Load(), away)
				}
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				if dst.String() != src.said || count.Load() != uint64(len(src.said)) {
					t.Errorf("%d bytes of %d, counted %d", dst.Len(), len(src.said), count.Load())
				}
				if left := held.used.Load(); left != 0 {
					t.Errorf("%d bytes of the budget are missing", left)
				}
			})
		})
	}
}

// bulk is a host that has always something to say.
type bulk struct{ read int }

func (s *bulk) ReadUntil(_ <-chan struct{}, b []byte) (int, error) {
	s.read += len(b)
	return len(b), nil
}

// What is held is bounded, and the end of the peer ends all.
func TestSpillIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, gone := &bulk{}, errors.New("gone")
		dst := &slow{away: time.Hour, err: gone}
		var count atomic.Uint64
		var held room
		done := make(chan error)
		var calls []string
		s := NewSpill(dst, src, &count, &held)
		s.Full, s.Over = func() { calls = append(calls, "full") }, func() { calls = append(calls, "over") }
		go func() { done <- copyAll(s, src, &count) }()
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		if most := 10*copySize + spillLimit + spillRead; src.read > most {
			t.Errorf("%d bytes read, want at most %d", src.read, most)
		}
		if err := <-done; !errors.Is(err, gone) {
			t.Error(err)
		}
		s.Drop()
		if left := held.used.Load(); left != 0 {
			t.Errorf("%d bytes of the budget are missing", left)
		}
		if strings.Join(calls, " ") != "full over" {
			t.Errorf("called %q", calls)
		}
	})
}
