package fec

import (
	"math"
	"sync"
	"time"
)

const (
	// windowPackets, and leastWindow to windowTime, are how much is looked at for the loss of a
	// path. A window of less than fullWindow packets counts for less.
	windowPackets = 400
	leastWindow   = 100 * time.Millisecond
	windowTime    = time.Second
	fullWindow    = 100
	firstWindow   = 50 // packets, at the start of a path
	// runWeight is that of a run of losses in the average of their lengths, once there are some.
	runWeight = 1.0 / 16
	// upwards and downwards are the weights of a window in the average.
	upwards, downwards = 0.4, 0.15
	// leastRest and mostRest are how many blocks may stay incomplete for each data packet. margin is
	// how much more loss is reckoned with than was measured, negligible what is not worth parity.
	leastRest, mostRest = 1e-6, 1e-5
	margin              = 1.2
	negligible          = 5e-4
	// cleanAfter is how many packets in a row none may be lost of, for the loss to be negligible.
	cleanAfter = 4 / negligible
	// runMemory is how long the longest run of losses counts, up to twice as long.
	runMemory = 10 * time.Second
	// lateAfter is how many packets may overtake one until that counts as lost, at most 64.
	lateAfter = 32
	// firstPackets are those of the start of a path, when it is taken to lose all that it may lose by
	// what is known: each loss that remains then ends slow start.
	firstPackets = 2000
	// rateSpan is what a rate is measured over, rateMemory how long the largest counts, up to twice
	// as long.
	rateSpan   = 500 * time.Millisecond
	rateMemory = 5 * time.Second
)

// Estimator learns from the packets that arrive by one path which loss is random. Make one with
// [NewEstimator].
type Estimator struct {
	epoch   time.Time
	begun   bool
	base    ticks // how far the clocks of the two are apart, with the delay of the first packet
	highest uint32
	clean   int     // packets since one was lost at random, among those that are judged
	seen    uint64  // of the last 64 numbers, the highest first: arrived, or lost to a full queue
	inRow   int     // lost at random, in a row, among those that are judged
	runs    int     // such runs
	usual   float64 // their average length
	guard   guard

	// The present window.
	window  time.Time
	arrived int
	lost    int
	loss    float64 // average of the windows
	// Of the path since it began.
	total, totalLost int
	want             uint8

	run      extreme
	rate     extreme // packets a second
	counted  int     // packets for the next rate
	since    time.Time
	shortest extreme // of the round trips, negated
	latency  time.Duration
}

// NewEstimator makes one whose times count from epoch.
func NewEstimator(epoch time.Time) *Estimator {
	return &Estimator{epoch: epoch, want: MaxParity, guard: newGuard()}
}

// Guard says whether loss that comes with our own rate is told from random loss. It is at first.
func (e *Estimator) Guard(on bool) { e.guard.off = !on }

// SetLatency says how long the round trip of the path is found to be now, 0 for unknown. The least of
// late is what counts: there is a queue of our own in others.
func (e *Estimator) SetLatency(now time.Time, d time.Duration) {
	if d > 0 {
		e.shortest.note(now, leastMemory, -float64(d))
	}
	e.latency = time.Duration(-e.shortest.value())
	e.guard.full = min(max(e.latency/4, leastFull), mostFull)
	e.guard.stander.latency = e.latency
}

// Want is how many parity packets the other side should send with each full block.
func (e *Estimator) Want() uint8 {
	if e.guard.ours {
		return 0
	}
	return e.want
}

// Ours says that packets are lost because of the rate at which they come: by a policer, or a short
// queue. Then all loss is taken for congestion.
func (e *Estimator) Ours() bool { return e.guard.ours }

// Loss is the random loss of the path, 0 to 1, before repairs.
func (e *Estimator) Loss() float64 { return e.loss }

// Signal is what QUIC is to be told.
type Signal uint8

// Signals.
const (
	// Clear: nothing.
	Clear Signal = iota
	// Standing: our packets queue for long; by ECN, if that can be.
	Standing
	// Congested: a queue has overflowed, or nearly so; in any case.
	Congested
)

// Arrived takes in a data packet that is no stray, and returns what QUIC is to be told with a
// packet that it is given next.
func (e *Estimator) Arrived(now time.Time, a *Arrival) (signal Signal) {
	ahead := int(int32(a.Number - e.highest))
	if !e.begun || ahead > ringSize || ahead < -ringSize {
		e.begin(now, a)
		ahead = 1
	}
	delay := (ticksOf(now.Sub(e.epoch)) - e.base).since(ticks(a.Sent))
	if e.guard.arrived(now, delay) {
		signal = Standing
	}
	unclear := e.guard.unclear() // what arrives and is lost then says nothing of random loss
	if !unclear {
		e.arrived++
	}
	if ahead > 0 {
		congested := ahead > 1 && e.guard.gap(now)
		if congested {
			signal = Congested
		}
		for range ahead - 1 {
			e.shift(now, congested || unclear)
		}
		e.shift(now, true)
		e.highest = a.Number
		e.guard.newest(a, e.Want())
	} else if -ahead < 64 {
		e.seen |= 1 << -ahead
	}
	full, least := windowPackets, leastWindow
	if e.total < firstPackets {
		full, least = firstWindow, 0
	}
	if n, age := e.arrived+e.lost, now.Sub(e.window); n >= full && age >= least || n > 0 && age >= windowTime {
		e.close(now)
	}
	return signal
}

// begin begins with the number of a packet, on a path that may be another one.
func (e *Estimator) begin(now time.Time, a *Arrival) {
	e.begun, e.highest, e.seen, e.window, e.counted, e.since = true, a.Number-1, ^uint64(0), now, 0, now
	e.base = ticksOf(now.Sub(e.epoch)) - ticks(a.Sent)
	e.shortest = extreme{}
	e.guard.begin(a.Number)
	e.total, e.totalLost, e.want = 0, 0, MaxParity
	e.clean = cleanAfter
}

// shift goes on by one number, and judges the one that has had time to come late.
func (e *Estimator) shift(now time.Time, seen bool) {
	e.clean++
	if e.seen>>(lateAfter-1)&1 == 0 {
		e.lost++
		e.inRow++
		e.clean = 0
		e.run.note(now, runMemory, float64(e.inRow))
	} else if e.inRow > 0 {
		e.runs++
		e.usual += max(runWeight, 1/float64(e.runs)) * (float64(e.inRow) - e.usual)
		e.inRow = 0
	}
	e.seen <<= 1
	if seen {
		e.seen |= 1
	}
}

// close ends a window.
func (e *Estimator) close(now time.Time) {
	all := e.arrived + e.lost
	loss := float64(e.lost) / float64(all)
	e.total, e.totalLost = e.total+all, e.totalLost+e.lost
	first := e.total < firstPackets
	switch {
	case first:
		e.loss = float64(e.totalLost) / float64(e.total)
	case loss < e.loss:
		e.loss -= downwards * min(1, float64(all)/fullWindow) * (e.loss - loss)
	default:
		e.loss += upwards * min(1, float64(all)/fullWindow) * (loss - e.loss)
	}
	e.counted += all
	if d := now.Sub(e.since); d >= rateSpan {
		e.rate.note(now, rateMemory, float64(e.counted)/d.Seconds())
		e.counted, e.since = 0, now
	}
	e.window, e.arrived, e.lost = now, 0, 0
	e.run.expire(now, runMemory)
	worst, usual := e.loss, max(1, int(math.Round(e.usual)))
	if first {
		worst = atMost(e.totalLost, e.total, usual)
	}
	if e.clean < cleanAfter {
		worst = max(worst, negligible)
	}
	e.want = wanted(worst, int(e.run.value()), usual, e.rest())
}

// rest is how many blocks may stay incomplete for each packet. QUIC takes each for congestion, sends
// less by three tenths, and then more by one packet each round trip: it is back after as many round
// trips as three tenths of what it has under way. From one to the next it is to have some time.
func (e *Estimator) rest() float64 {
	underway := e.rate.value() * e.latency.Seconds()
	return min(max(2/(underway*underway), leastRest), mostRest)
}

// atMost is the largest loss of a path of which so many packets of all were lost, some in a row, but
// for one case in twenty or so.
func atMost(lost, all, run int) float64 {
	runs := float64(lost) / float64(run)
	return min(1, (runs+2*math.Sqrt(runs)+3)*float64(run)/float64(all))
}

// wanted is the least number of parity packets of a full block that leave few enough blocks
// incomplete at a loss, and repair the longest run of late.
func wanted(loss float64, run, usual int, rest float64) uint8 {
	if loss < negligible {
		return 0
	}
	for m := min(run+1, MaxParity); m < MaxParity; m++ {
		if incomplete(min(margin*loss, 1), BlockSize, m, usual) <= rest*BlockSize {
			return uint8(m)
		}
	}
	return MaxParity
}

// incomplete is the part of the blocks of count packets that cannot be repaired by m of parity, when
// packets are lost with probability p, so many in a row each time.
func incomplete(p float64, count, m, run int) float64 {
	n := count + m
	p /= float64(run)
	chance, repaired := math.Pow(1-p, float64(n)), 0.0 // that none is lost
	for lost := 0; lost*run <= m; lost++ {
		repaired += chance
		chance *= float64(n-lost) / float64(lost+1) * p / (1 - p)
	}
	return 1 - repaired
}

// fewer is how many parity packets protect a block of count packets as well as m do a full one.
func fewer(m, count int) int { return int(fewerTable()[m][count]) }

var fewerTable = sync.OnceValue(func() (t [MaxParity + 1][BlockSize + 1]uint8) {
	for m := 1; m <= MaxParity; m++ {
		// The loss that m is right for.
		low, high := 0.0, 0.5
		for range 30 {
			if p := (low + high) / 2; incomplete(p, BlockSize, m, 1) <= mostRest*BlockSize {
				low = p
			} else {
				high = p
			}
		}
		for count := 1; count <= BlockSize; count++ {
			n := 0
			for n < m && incomplete(low, count, n, 1) > mostRest*float64(count) {
				n++
			}
			t[m][count] = uint8(n)
		}
	}
	return t
})

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
