package fec

import (
	"math/rand/v2"
	"testing"
	"time"
)

// feed has packets arrive for a while, one each gap, after a delay that the caller says; lost ones
// do not.
func feed(e *Estimator, now *time.Time, number *uint32, d, gap time.Duration, delay func() time.Duration, lose func() bool) (congested int) {
	for end := now.Add(d); now.Before(end); *now = now.Add(gap) {
		*number++
		if lose() {
			continue
		}
		if e.Arrived(now.Add(delay()), &Arrival{Number: *number, Sent: uint16(ticksOf(now.Sub(start)))}) {
			congested++
		}
	}
	return congested
}

func steady(d time.Duration) func() time.Duration { return func() time.Duration { return d } }

// What is asked for follows the loss of a path, and goes again with it.
func TestWantFollowsLoss(t *testing.T) {
	for _, test := range []struct {
		percent     float64
		least, most uint8
	}{{0, 0, 0}, {0.1, 1, 4}, {1, 3, 5}, {2, 4, 7}, {5, 7, 8}, {20, 8, 8}} {
		e, now, number := NewEstimator(start), start, uint32(0)
		r := rand.New(rand.NewPCG(1, uint64(test.percent*10)))
		if e.Want() != firstWant {
			t.Errorf("asks for %d at first", e.Want())
		}
		lose := func() bool { return r.Float64()*100 < test.percent }
		congested := feed(e, &now, &number, 30*time.Second, 300*time.Microsecond, steady(40*time.Millisecond), lose)
		if e.Want() < test.least || e.Want() > test.most {
			t.Errorf("%v %% of loss, taken for %.2f: asks for %d, want %d to %d", test.percent, 100*e.Loss(), e.Want(), test.least, test.most)
		}
		if congested > 0 {
			t.Errorf("%v %% of random loss is taken for congestion %d times", test.percent, congested)
		}
		feed(e, &now, &number, 60*time.Second, 300*time.Microsecond, steady(40*time.Millisecond), func() bool { return false })
		if e.Want() != 0 {
			t.Errorf("after %v %% asks for %d on a clean path", test.percent, e.Want())
		}
	}
}

// The longest run of losses of late can be repaired.
func TestWantFollowsBursts(t *testing.T) {
	e, now, number := NewEstimator(start), start, uint32(0)
	i := 0
	lose := func() bool { i++; return i%1000 < 5 }
	feed(e, &now, &number, 20*time.Second, 300*time.Microsecond, steady(40*time.Millisecond), lose)
	if e.Want() < 6 {
		t.Errorf("runs of 5 are lost, and %d asked for", e.Want())
	}
}

// Loss that comes with a full queue is congestion, and no reason for parity; whatever the clocks of
// the two say, and also when their ticks come round.
func TestCongestion(t *testing.T) {
	for _, skew := range []time.Duration{0, -time.Hour, 3 * time.Second} {
		e, now, number := NewEstimator(start), start, uint32(0)
		r := rand.New(rand.NewPCG(1, 1))
		queue, step := time.Duration(0), 15*time.Microsecond
		delay := func() time.Duration { return skew + 40*time.Millisecond + queue }
		overflows := 0
		// The queue fills within 2 s, overflows until TCP has noticed, and becomes half as long.
		lose := func() bool {
			if queue += step; queue < 50*time.Millisecond {
				step = 15 * time.Microsecond
			}
			if queue < 100*time.Millisecond || step < 0 {
				return false
			}
			if overflows++; r.IntN(20) == 0 {
				step = -30 * time.Microsecond
			}
			return true
		}
		congested := feed(e, &now, &number, 60*time.Second, 300*time.Microsecond, delay, lose)
		if congested == 0 || overflows == 0 || e.Want() > 0 {
			t.Errorf("skew %v: %d losses, congestion seen %d times, asks for %d", skew, overflows, congested, e.Want())
		}
	}
}

// Packets that come late were not lost.
func TestLateIsNotLost(t *testing.T) {
	e, now := NewEstimator(start), start
	for i := range uint32(100_000) {
		now = now.Add(300 * time.Microsecond)
		e.Arrived(now.Add(40*time.Millisecond), &Arrival{Number: i ^ 3, Sent: uint16(ticksOf(now.Sub(start)))})
	}
	if e.Loss() > 0.001 || e.Want() > 4 {
		t.Errorf("%.2f %% of loss where all came, asks for %d", 100*e.Loss(), e.Want())
	}
}

// A share of what is lost remains as reckoned.
func TestRemaining(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, test := range []struct {
		p float64
		m int
	}{{0.05, 2}, {0.02, 1}, {0.1, 4}} {
		lost, blocks := 0, 200_000
		for range blocks {
			n, ofData := 0, 0
			for i := range BlockSize + test.m {
				if r.Float64() < test.p {
					if n++; i < BlockSize {
						ofData++
					}
				}
			}
			if n > test.m {
				lost += ofData
			}
		}
		got, want := float64(lost)/float64(blocks*BlockSize), remaining(test.p, test.m)
		if got < 0.9*want || got > 1.1*want {
			t.Errorf("p %v, m %d: %v remains, reckoned %v", test.p, test.m, got, want)
		}
	}
}
