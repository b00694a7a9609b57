package nodemap

import (
	"testing"
	"time"
)

func (a *simNode) lengthened() (n int) {
	for _, act := range a.log {
		if act.Kind == Lengthened {
			n++
		}
	}
	return n
}

// A path that has become longer for good is told of once, on both sides; one that is longer
// while much goes over it, or a little, or for a moment, is not.
func TestPathGrowsLonger(t *testing.T) {
	for _, test := range []struct {
		name    string
		delay   time.Duration // one way, 10 ms before
		lasts   time.Duration
		payload int
		want    int
	}{
		{"from 20 to 80 ms", 40 * time.Millisecond, time.Minute, 100, 1},
		{"from 20 to 25 ms", 12500 * time.Microsecond, time.Minute, 100, 0},
		{"for a moment", 40 * time.Millisecond, 5 * time.Second, 100, 0},
		{"under load", 40 * time.Millisecond, time.Minute, 1200, 0},
	} {
		s, a, b := pair(t, true)
		a.payload, b.payload = test.payload, test.payload
		gap := time.Second / 4
		if test.payload > 1000 {
			gap = 10 * time.Millisecond
		}
		a.stream(b, gap, 3*time.Minute)
		b.stream(a, gap, 3*time.Minute)
		s.run(40 * time.Second)
		before := s.delay
		s.delay = test.delay
		s.run(test.lasts)
		s.delay = before
		s.run(time.Minute)
		if a.lengthened() != test.want || b.lengthened() != test.want {
			t.Errorf("%s: told %d and %d times, want %d", test.name, a.lengthened(), b.lengthened(), test.want)
		}
	}
}

// The first round trip is taken twice: a machine that has just started answers late.
func TestFirstRoundTripIsTakenTwice(t *testing.T) {
	s, a, b := pair(t, false)
	latency := func() time.Duration {
		info, _ := a.m.Remote(s.now, b.id)
		return info.RTT
	}
	delay := s.delay
	s.delay = 3 * delay
	a.stream(b, tick20, time.Second)
	s.run(2 * s.delay)
	wantConn(t, a, b, ConnDirect)
	if l := latency(); l != 6*delay {
		t.Fatalf("%v at first, want %v", l, 6*delay)
	}
	s.delay = delay
	s.run(secondPing + 3*delay)
	if l := latency(); l != 2*delay {
		t.Errorf("then %v, want %v", l, 2*delay)
	}
}
