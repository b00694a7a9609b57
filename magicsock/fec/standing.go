package fec

import "time"

const (
	// standingPart is how long a queue may stand, as a part of the round trip, within the bounds
	// that follow: QUIC sends less by three tenths when it is told, which empties a queue of three
	// sevenths, and the line stays busy.
	standingPart  = 0.43
	leastStanding = 10 * time.Millisecond
	mostStanding  = 40 * time.Millisecond
	// effect is by how much a queue that is ours becomes shorter then, at the least, as a part of
	// the round trip with it: two thirds of what it should.
	effect = 0.2
	// fastGrowth is how many round trips slow start takes at most for a queue that is too long.
	fastGrowth = 4
	// othersTime is for how long a queue is taken for that of others, to whom we would only lose.
	othersTime = 20 * time.Second
)

// stander keeps the queue short that our own packets make at the narrowest hop, before it
// overflows: that one tells QUIC of it only when it is full.
type stander struct {
	latency time.Duration
	told    time.Time     // when QUIC was told; zero: what came of it is known
	before  time.Duration // the queueing delay that stood then,
	since   time.Duration // the least such since,
	peak    time.Duration // and the most that any packet had
	low     time.Time     // when there was hardly a queue last
	fast    bool          // it had come in a few round trips: by slow start
	again   bool          // that had been so the time before
	others  time.Time     // until when the queue is that of others
}

// note takes in the queueing delay that stands, and that of a packet, and says whether QUIC is to be
// told.
func (s *stander) note(now time.Time, standing, queueing time.Duration) bool {
	if standing < leastStanding/4 {
		s.low = now
	}
	if !s.told.IsZero() {
		s.since, s.peak = min(s.since, standing), max(s.peak, queueing)
		if now.Sub(s.told) < 2*s.latency+s.before+s.peak {
			return false // what arrives may have been sent before QUIC knew, who would not be told twice
		}
		s.told = time.Time{}
		switch fell := s.before - s.since; {
		case fell >= time.Duration(effect*float64(s.latency+s.before)) || s.since < leastStanding/2:
			s.again = false
		case s.fast && !s.again: // it went on to grow until QUIC knew
			s.again = true
		default:
			s.others, s.again = now.Add(othersTime), false
		}
	}
	most := min(max(time.Duration(standingPart*float64(s.latency)), leastStanding), mostStanding)
	if standing <= most || now.Before(s.others) {
		return false
	}
	s.told, s.before, s.since, s.peak = now, standing, standing, queueing
	s.fast = now.Sub(s.low) < fastGrowth*(s.latency+standing)
	return true
}
