package netmon

import "time"

// sleepGap is the least difference that counts as a sleep, between two clocks
// or between the time at which a tick was asked for and that at which it came.
// A busy machine may be late by a second or two.
const sleepGap = 5 * time.Second

// sleepCounted is the same for a clock that counts sleep and nothing else.
const sleepCounted = time.Second

// clocks is one reading of the clocks of the host.
type clocks struct {
	// running counts while the machine runs, that is not in sleep.
	running time.Duration
	// asleep counts while it sleeps, if the system tells.
	asleep time.Duration
	wall   time.Time
}

// readClocks returns a reader whose running clock begins now.
func readClocks(src source) func() clocks {
	start := time.Now()
	return func() clocks {
		now := time.Now()
		return clocks{running: now.Sub(start), asleep: src.asleep(), wall: now.Round(0)}
	}
}

// sleptSince says that there was a sleep, or a stop of the process, between
// two readings of which the later one was due within a tick of that length.
//
// A wall clock that goes forward alone is taken for a sleep too: a virtual
// machine that was paused may know of it in no other way.
func (c clocks) sleptSince(before clocks, tick time.Duration) bool {
	ran := c.running - before.running
	return c.asleep-before.asleep > sleepCounted ||
		c.wall.Sub(before.wall)-ran > sleepGap ||
		ran > tick+sleepGap
}
