package fec

import (
	"math"
	"time"
)

// A queue that overflows, or a policer, loses packets at its worst moments: the packet before a
// gap was late, or deep in a burst, or of those that came fastest. Where loss is random, the one
// before a gap is a packet like any other. So what tells the two apart, however short the queue
// is, is the rank of the packets before gaps among all of late: one half on average if loss is
// random.
const (
	rankClasses = 160
	// oursAbove and oursBelow are the means from which on loss comes with our own rate, and
	// below which it does not any more.
	oursAbove, oursBelow = 0.75, 0.65
	// rankEnough and gapsEnough are how many packets and gaps have to be known: then the mean of
	// random loss is off by 0.06.
	rankEnough = 200
	gapsEnough = 20
)

// Memories, in packets; up to half of them older. Delays and places in bursts change from packet
// to packet, the rate with each turn of congestion control, which takes seconds.
const (
	shortMemory = 16384
	longMemory  = 65536
)

// ranks are values of the packets of late, as classes from 0 on.
type ranks struct {
	memory uint32
	count  [rankClasses]uint32 // of all
	before [rankClasses]uint32 // of those before gaps
	all    uint32
	gaps   uint32
}

func class(v int) int { return min(max(v, 0), rankClasses-1) }

// note takes in the value of a packet.
func (r *ranks) note(v int) {
	if r.all >= r.memory {
		r.all, r.gaps = 0, 0
		for i := range r.count {
			r.count[i] /= 2
			r.before[i] /= 2
			r.all += r.count[i]
			r.gaps += r.before[i]
		}
	}
	r.count[class(v)]++
	r.all++
}

// gap takes in the value of a packet that was the last before a gap.
func (r *ranks) gap(v int) {
	r.before[class(v)]++
	r.gaps++
}

// forgive forgets the gaps.
func (r *ranks) forgive() { r.before, r.gaps = [rankClasses]uint32{}, 0 }

// mean is that of the ranks of all that were before gaps; ok is false if they are too few.
func (r *ranks) mean() (mean float64, ok bool) {
	if r.all < rankEnough || r.gaps < gapsEnough {
		return 0, false
	}
	below, sum := 0.0, 0.0
	for i, n := range r.count {
		sum += float64(r.before[i]) * (below + float64(n)/2)
		below += float64(n)
	}
	return sum / float64(r.gaps) / float64(r.all), true
}

// queues tells whether packets are lost behind an empty queue, too. One that drops what has waited
// for long, or some of what waits, loses packets only while it stands (RFC 8289, RFC 8033).
type queues struct {
	empty, standing struct{ packets, gaps float64 }
}

const (
	emptyDelay   = 5 * time.Millisecond // codel leaves what waits for less
	emptyPackets = 2000                 // have to be known,
	emptyGaps    = 3                    // and as many gaps
)

func (q *queues) note(standing time.Duration) {
	switch {
	case standing < emptyDelay:
		q.empty.packets++
	case standing > leastFull:
		q.standing.packets++
	}
	if q.empty.packets+q.standing.packets >= longMemory {
		for _, n := range []*float64{&q.empty.packets, &q.empty.gaps, &q.standing.packets, &q.standing.gaps} {
			*n /= 2
		}
	}
}

func (q *queues) gap(standing time.Duration) {
	switch {
	case standing < emptyDelay:
		q.empty.gaps++
	case standing > leastFull:
		q.standing.gaps++
	}
}

// random says that at least half as much is lost behind an empty queue as behind one that
// stands. Until that is known, the queue is to become empty.
func (q *queues) random() bool {
	return q.empty.packets >= emptyPackets && q.empty.gaps >= emptyGaps &&
		q.empty.gaps/q.empty.packets >= q.standing.gaps/max(q.standing.packets, 1)/2
}

// pace is the rate at which packets left, over the last 50 to 100 ms.
type pace struct {
	at     [2]ticks // of the beginning of this span, and of the one before
	number [2]uint32
	gaps   int // in this span
}

const (
	paceSpan = 500 // ticks
	// spanGaps is how many gaps of a span count: those of one slow start too many are not to
	// decide alone.
	spanGaps = 8
)

// gap reports whether a gap counts.
func (p *pace) gap() bool {
	p.gaps++
	return p.gaps <= spanGaps
}

// note takes in a packet, and returns the class of the rate: twelve an octave, from 8 packets a
// second on. more is what leaves beside the packets that are numbered, as a factor.
func (p *pace) note(sent ticks, number uint32, more float64) int {
	age := sent - p.at[0]
	if age >= paceSpan {
		p.at[1], p.number[1] = p.at[0], p.number[0]
		if age >= 2*paceSpan { // it was quiet
			p.at[1], p.number[1] = sent-paceSpan, number-1
		}
		p.at[0], p.number[0], p.gaps = sent, number, 0
	}
	span := float64(sent-p.at[1]) * tick.Seconds()
	rate := float64(number-p.number[1]) * more / max(span, tick.Seconds())
	return class(int(12 * math.Log2(max(rate/8, 1))))
}
