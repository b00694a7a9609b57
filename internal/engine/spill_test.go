package engine

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

// ordinary is the speed of a flow in a test, which has budget enough.
func ordinary(b *budget) *speed {
	return &speed{budget: b, buffers: func(int) bool { return true }}
}

// ticker is a host that says something every 100 ms.
type ticker struct {
	next atomic.Int64
	last int64 // then it ends
	said string
}

func (s *ticker) Read(b []byte) (int, error) { return s.ReadUntil(nil, b) }

func (s *ticker) await(time.Duration) bool { return true }

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
				var room budget
				done := make(chan error)
				go func() {
					done <- errors.Join(copyGrowing(newSpill(dst, src, &count, &room), src, &count, ordinary(&room)))
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
				if left := room.used.Load(); left != 0 {
					t.Errorf("%d bytes of the budget are missing", left)
				}
			})
		})
	}
}

// bulk is a host that has always something to say.
type bulk struct{ read int }

func (s *bulk) await(time.Duration) bool { return true }

func (s *bulk) Read(b []byte) (int, error) { return s.ReadUntil(nil, b) }

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
		var room budget
		done := make(chan error)
		var calls []string
		s := newSpill(dst, src, &count, &room)
		s.full, s.over = func() { calls = append(calls, "full") }, func() { calls = append(calls, "over") }
		go func() { done <- errors.Join(copyGrowing(s, src, &count, ordinary(&room))) }()
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		if most := 10*largeCopy + spillLimit + spillRead; src.read > most {
			t.Errorf("%d bytes read, want at most %d", src.read, most)
		}
		if err := <-done; !errors.Is(err, gone) {
			t.Error(err)
		}
		s.drop()
		if left := room.used.Load(); left != 0 {
			t.Errorf("%d bytes of the budget are missing", left)
		}
		if strings.Join(calls, " ") != "full over" {
			t.Errorf("called %q", calls)
		}
	})
}
