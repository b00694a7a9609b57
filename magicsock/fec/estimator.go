package fec

import (
	"math"
	"time"
)

const (
	// windowPackets and windowTime are how much is looked at for the loss of a path.
	windowPackets = 400
	windowTime    = time.Second
	// upwards and downwards are the weights of a window in the average.
	upwards, downwards = 0.4, 0.15
	// residual is the loss that may remain: each that QUIC sees costs it seconds. margin is how
	// much more loss is reckoned with than was measured, negligible what is not worth parity.
	residual   = 1.5e-5
	margin     = 1.2
	negligible = 5e-4
	// congestionDelay is the least queueing delay that means a full queue, and congestionPart the
	// part of the largest delay of late.
	congestionDelay = 8 * time.Millisecond
	congestionPart  = 0.6
	// leastMemory and mostMemory are how long the least and the largest delay count, and the
	// longest run of losses; up to twice as long.
	leastMemory = 10 * time.Second
	mostMemory  = 4 * time.Second
	// lateAfter is how many packets may overtake one until that counts as lost, at most 64.
	lateAfter = 32
	// firstWant is asked for before anything is known: a start without parity costs slow start.
	firstWant = 4
)

// Estimator learns from the packets that arrive by one path which loss is random. Make one with
// [NewEstimator].
type Estimator struct {
	epoch   time.Time
	begun   bool
	highest uint32
	seen    uint64 // of the last 64 numbers, the highest first: arrived, or lost to a full queue
	inRow   int    // lost at random, in a row, among those that are judged

	// The present window.
	window   time.Time
	arrived  int
	lost     int
	loss     float64 // average of the windows
	measured bool    // a window is over
	want     uint8

	least, most, run extreme
}

// NewEstimator makes one whose times count from epoch.
func NewEstimator(epoch time.Time) *Estimator {
	return &Estimator{epoch: epoch, want: firstWant}
}

// Want is how many parity packets the other side should send with each block.
func (e *Estimator) Want() uint8 { return e.want }

// Loss is the random loss of the path, 0 to 1, before repairs.
func (e *Estimator) Loss() float64 { return e.loss }

// Arrived takes in a data packet, and reports whether it shows that a queue is full: then QUIC is
// to be told, by ECN on a packet that it is given next.
func (e *Estimator) Arrived(now time.Time, a *Arrival) (congested bool) {
	delay := ticksOf(now.Sub(e.epoch)).since(ticks(a.Sent))
	e.least.note(now, leastMemory, -float64(delay))
	queueing := time.Duration(float64(delay) + e.least.value())
	e.most.note(now, mostMemory, float64(queueing))
	e.arrived++
	switch ahead := int(int32(a.Number - e.highest)); {
	case !e.begun || ahead > ringSize || ahead < -ringSize:
		e.begun, e.highest, e.seen, e.window = true, a.Number, ^uint64(0), now
	case ahead <= 0:
		if -ahead < 64 {
			e.seen |= 1 << -ahead
		}
	default:
		congested = ahead > 1 && queueing > max(congestionDelay, time.Duration(congestionPart*e.most.value()))
		for range ahead - 1 {
			e.shift(now, congested)
		}
		e.shift(now, true)
		e.highest = a.Number
	}
	if all := e.arrived + e.lost; all >= windowPackets || now.Sub(e.window) >= windowTime {
		e.close(now)
	}
	return congested
}

// shift goes on by one number, and judges the one that has had time to come late.
func (e *Estimator) shift(now time.Time, seen bool) {
	if e.seen>>(lateAfter-1)&1 == 0 {
		e.lost++
		e.inRow++
		e.run.note(now, leastMemory, float64(e.inRow))
	} else {
		e.inRow = 0
	}
	e.seen <<= 1
	if seen {
		e.seen |= 1
	}
}

// close ends a window.
func (e *Estimator) close(now time.Time) {
	loss := float64(e.lost) / float64(e.arrived+e.lost)
	weight := upwards
	if loss < e.loss {
		weight = downwards
	}
	if !e.measured {
		weight = 1
	}
	e.loss += weight * (loss - e.loss)
	e.measured = true
	e.window, e.arrived, e.lost = now, 0, 0
	e.run.expire(now, leastMemory)
	e.want = wanted(e.loss, int(e.run.value()))
}

// wanted is the least number of parity packets that leave little enough of a loss, and repair
// the longest run of late.
func wanted(loss float64, run int) uint8 {
	if loss < negligible {
		return 0
	}
	for m := min(run+1, MaxParity); m < MaxParity; m++ {
		if remaining(min(margin*loss, 1), m) <= residual {
			return uint8(m)
		}
	}
	return MaxParity
}

// remaining is the part of the data packets that stays lost when each packet of a block of 20 and
// m is lost with probability p: more than m of them have to be.
func remaining(p float64, m int) (rest float64) {
	n := BlockSize + m
	chance := math.Pow(1-p, float64(n)) // that none is lost
	for lost := range n + 1 {
		if lost > m {
			rest += chance * float64(lost) / float64(n)
		}
		chance *= float64(n-lost) / float64(lost+1) * p / (1 - p)
	}
	return rest
}

// extreme is the largest value of late. The zero value has seen none.
type extreme struct {
	since     time.Time // when now began
	now, past float64   // of this span, and of the one before
	seen      bool
}

// note takes a value in.
func (x *extreme) note(at time.Time, span time.Duration, v float64) {
	if !x.seen {
		x.since, x.now, x.past, x.seen = at, v, v, true
		return
	}
	switch age := at.Sub(x.since); {
	case age >= 2*span:
		x.past, x.now, x.since = v, v, at
	case age >= span:
		x.past, x.now, x.since = x.now, v, at
	default:
		x.now = max(x.now, v)
	}
}

// expire forgets what was seen long ago, where nothing is noted for long.
func (x *extreme) expire(at time.Time, span time.Duration) {
	if x.seen && at.Sub(x.since) >= 2*span {
		*x = extreme{}
	}
}

func (x *extreme) value() float64 { return max(x.now, x.past) }
