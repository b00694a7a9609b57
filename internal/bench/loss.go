//go:build linux

package main

import (
	"math"
	"math/rand/v2"
	"time"
)

// losses returns what tells of each frame in turn whether it is lost.
func (l line) losses() func() bool {
	if m, ok := models[l.Model]; ok {
		return m.losses()
	}
	left := 0
	run := max(l.Run, 1)
	return func() bool {
		if left == 0 && rand.Float64() < l.Loss/float64(run) {
			left = run
		}
		if left == 0 {
			return false
		}
		left--
		return true
	}
}

// model is the one of Gilbert and Elliott: a path is in a good or in a bad state, and changes at
// random with each frame.
type model struct {
	toBad, toGood     float64 // chance of a change, each frame
	goodLoss, badLoss float64 // chance of a loss, each frame
}

// models are those with published parameters. What air-to-ground Wi-Fi loses in flight was measured
// by Rula et al., "Mile High WiFi", WWW 2018; the ranges of the parameters are those that Michel,
// De Coninck and Bonaventure derive from it, "QUIC-FEC", IFIP Networking 2019.
var models = map[string]model{
	"Wi-Fi in flight, mild": {toBad: 0.01, toGood: 0.5, badLoss: 1},
	"Wi-Fi in flight, hard": {toBad: 0.01, toGood: 0.08, goodLoss: 0.02, badLoss: 1},
}

func (m model) losses() func() bool {
	bad := false
	return func() bool {
		change := m.toBad
		if bad {
			change = m.toGood
		}
		if rand.Float64() < change {
			bad = !bad
		}
		loss := m.goodLoss
		if bad {
			loss = m.badLoss
		}
		return rand.Float64() < loss
	}
}

// codel decides by how long frames have waited (RFC 8289, appendix A): when all have waited for
// more than the target for an interval, one goes, and then more and more often.
type codel struct {
	above    time.Time // when the next is to go, if all wait too long until then; zero: none does
	dropping bool
	next     time.Time // of the frames that go
	count    int       // how many went
	before   int       // count when the last time of dropping began
}

// Times of codel (RFC 8289, 4.2 and 4.3).
const (
	codelTarget   = 5 * time.Millisecond
	codelInterval = 100 * time.Millisecond
)

// drops says whether a frame goes that is sent next, at now, and has waited.
func (c *codel) drops(now time.Time, waited time.Duration) bool {
	late := c.late(now, waited)
	switch {
	case !late:
		c.dropping = false
		return false
	case c.dropping:
		if now.Before(c.next) {
			return false
		}
		c.count++
		c.next = c.law(c.next)
		return true
	}
	c.dropping = true
	// Where dropping ended a short while ago, it goes on at that pace.
	if delta := c.count - c.before; delta > 1 && now.Sub(c.next) < 16*codelInterval {
		c.count = delta
	} else {
		c.count = 1
	}
	c.before = c.count
	c.next = c.law(now)
	return true
}

// late says that frames have waited for too long for an interval.
func (c *codel) late(now time.Time, waited time.Duration) bool {
	switch {
	case waited < codelTarget:
		c.above = time.Time{}
	case c.above.IsZero():
		c.above = now.Add(codelInterval)
	default:
		return !now.Before(c.above)
	}
	return false
}

func (c *codel) law(t time.Time) time.Time {
	return t.Add(time.Duration(float64(codelInterval) / math.Sqrt(float64(c.count))))
}
