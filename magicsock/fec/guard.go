package fec

import "time"

const (
	// leastFull and mostFull are the least queueing delay that means a full queue, a quarter of the
	// round trip within these bounds, and fullPart the part of the largest delay of late. Where
	// nothing is lost while there is no queue, leastFull will do.
	leastFull = 8 * time.Millisecond
	mostFull  = 20 * time.Millisecond
	fullPart  = 0.6
	// leastMemory and mostMemory are how long the least delay, or round trip, and the largest delay
	// count, up to twice as long.
	leastMemory = 10 * time.Second
	mostMemory  = 4 * time.Second
	// standingSpan is for how long packets have to be late, up to twice as long, to show a queue.
	standingSpan = 20 * time.Millisecond
	// burstGap is how far apart packets of one burst leave at most.
	burstGap = 200 * time.Microsecond
	// oursTime is after how long the verdict is reached anew: nothing else would tell when loss
	// has become rare.
	oursTime = time.Minute
)

// guard tells loss by congestion from random loss.
type guard struct {
	off bool // loss that comes with our own rate is not told from random loss

	full             time.Duration // of a delay that means a full queue
	least, low, most extreme       // of the delay, of the queueing delay and of what stands
	queueing         time.Duration // of what has arrived last,
	stood            time.Duration // and what stood before that

	// Of the newest packet.
	delay int // class
	place int // in its burst, which began with the number first
	first uint32
	sent  ticks
	rate  int // class

	pace                  pace
	delays, places, rates ranks
	queues                queues
	stander               stander

	ours   bool      // loss comes with our own rate
	judged time.Time // when that was found
}

func newGuard() guard {
	return guard{full: leastFull, delays: ranks{memory: shortMemory}, places: ranks{memory: shortMemory}, rates: ranks{memory: longMemory}}
}

// begin forgets the delays: the path may be another one.
func (g *guard) begin(number uint32) {
	g.least, g.low, g.most = extreme{}, extreme{}, extreme{}
	g.stander = stander{latency: g.stander.latency}
	g.first = number
}

// arrived takes in the delay of a packet, from any point on, and says whether a queue of ours has
// become too long.
func (g *guard) arrived(now time.Time, delay time.Duration) (standing bool) {
	g.stood = g.standing()
	g.least.note(now, leastMemory, -float64(delay))
	g.queueing = delay + time.Duration(g.least.value())
	g.low.note(now, standingSpan, -float64(g.queueing))
	g.most.note(now, mostMemory, float64(g.standing()))
	return g.stander.note(now, g.standing(), g.queueing)
}

// newest takes in a packet that has the largest number and has arrived just now. parity packets
// are on their way with each block like it.
func (g *guard) newest(a *Arrival, parity uint8) {
	if gap := ticks(a.Sent).since(g.sent); gap > burstGap || gap < 0 {
		g.first = a.Number
	}
	g.sent, g.place = ticks(a.Sent), int(a.Number-g.first)
	g.rate = g.pace.note(g.sent, a.Number, 1+float64(parity)/BlockSize)
	g.delay = delayClass(g.queueing)
	g.delays.note(g.delay)
	g.places.note(g.place)
	g.rates.note(g.rate)
	g.queues.note(g.standing())
}

// overflows is the queueing delay from which on a queue is full.
func (g *guard) overflows() time.Duration {
	return max(g.full, time.Duration(fullPart*g.most.value()))
}

// unclear says that the packet that arrived last was as late as behind a full queue, but not for long
// yet: one may have become full, or something stands still for a moment.
func (g *guard) unclear() bool {
	return g.queueing > g.overflows() && g.standing() <= g.overflows()
}

// gap judges a gap after the newest packet, and reports whether it is a matter of congestion. The
// packet that shows it has arrived, but is not the newest yet: the queue may be shorter again.
func (g *guard) gap(now time.Time) (congested bool) {
	standing := max(g.stood, g.standing())
	if standing > g.overflows() {
		return true
	}
	if g.queues.gap(standing); standing > leastFull && !g.queues.random() {
		return true
	}
	g.delays.gap(g.delay)
	g.places.gap(g.place)
	if g.pace.gap() {
		g.rates.gap(g.rate)
	}
	g.judge(now)
	return g.ours
}

// judge decides whether loss comes with our own rate. While little is known the last verdict
// holds, but not for ever.
func (g *guard) judge(now time.Time) {
	all := [...]*ranks{&g.delays, &g.places, &g.rates}
	if g.ours && now.Sub(g.judged) >= oursTime {
		g.ours = false
		for _, r := range all {
			r.forgive()
		}
	}
	top, known := 0.0, 0
	for _, r := range all {
		if mean, ok := r.mean(); ok {
			top, known = max(top, mean), known+1
		}
	}
	switch {
	case top > oursAbove && !g.ours && !g.off:
		g.ours, g.judged = true, now
	case known == len(all) && top < oursBelow: // those that showed it are known still
		g.ours = false
	}
}

// standing is the queueing delay that no packet of late had less than: of a queue, not of a
// process or a radio that stood still for a moment.
func (g *guard) standing() time.Duration { return time.Duration(-g.low.value()) }

// delayClass returns the class of a delay among the ranks: steps of 100 µs up to 3.2 ms, and of
// 800 µs above.
func delayClass(d time.Duration) int {
	const fine = 32
	if n := int(d / tick); n < fine {
		return max(n, 0)
	}
	return fine + (int(d/tick)-fine)/8
}
