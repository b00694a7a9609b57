package engine

import (
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// pulses is a source that is full for a while, then silent, and again.
type pulses struct{ bursts, left int }

const pause = time.Minute

func (s *pulses) await() {
	if s.left == 0 {
		time.Sleep(pause)
		s.next()
	}
}

func (s *pulses) next() {
	s.bursts--
	s.left = 20
}

func (s *pulses) read(b []byte, patient bool) (int, error) {
	if s.left == 0 && patient {
		time.Sleep(idleAfter)
		return 0, errIdle
	}
	if s.bursts < 0 {
		return 0, io.EOF
	}
	s.left--
	return len(b), nil
}

func (s *pulses) end() {}

// A flow has large buffers while it is fast, none when it is silent, and goes on without
// them when others have used up the budget.
func TestSpeedIsLent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var room budget
		var count counted
		sizes := map[int]int{}
		fast := &speed{budget: &room, buffers: func(n int) bool { sizes[n]++; return sizes[n] != 2 }}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = copyGrowing(io.Discard, &pulses{bursts: 3}, &count, fast)
		}()
		time.Sleep(time.Minute + idleAfter/2)
		if used := room.used.Load(); used != speedBytes {
			t.Errorf("%d bytes taken by a fast flow", used)
		}
		time.Sleep(idleAfter)
		if used := room.used.Load(); used != 0 {
			t.Errorf("%d bytes taken by a silent flow", used)
		}
		<-done
		if used := room.used.Load(); used != 0 {
			t.Errorf("%d bytes are missing", used)
		}
		if count.most != largeCopy {
			t.Errorf("%d bytes were the most at a time", count.most)
		}

		room.Take(budgetSize - speedBytes + 1)
		count = counted{}
		_, _ = copyGrowing(io.Discard, &pulses{bursts: 1}, &count, fast)
		if count.most != smallCopy || room.used.Load() != budgetSize-speedBytes+1 {
			t.Errorf("without a budget: %d bytes at a time, %d taken", count.most, room.used.Load())
		}
	})
}

// counted knows the most that was copied at a time.
type counted struct{ most uint64 }

func (c *counted) Add(n uint64) uint64 {
	c.most = max(c.most, n)
	return n
}
