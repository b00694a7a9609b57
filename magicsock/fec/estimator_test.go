package fec

import (
	"math"
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
		if e.Arrived(now.Add(delay()), &Arrival{Number: *number, Sent: uint16(ticksOf(now.Sub(start)))}) == Congested {
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
	}{{0, 0, 0}, {0.1, 2, 4}, {1, 4, 7}, {2, 7, 10}, {5, 12, 16}, {20, 16, 16}} {
		e, now, number := NewEstimator(start), start, uint32(0)
		r := rand.New(rand.NewPCG(1, uint64(test.percent*10)))
		if e.Want() != MaxParity {
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

// A path that loses one packet in a thousand has parity all the time: each loss that it does not
// repair costs seconds.
func TestWantStays(t *testing.T) {
	e, now, number := NewEstimator(start), start, uint32(0)
	r := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		feed(e, &now, &number, 100*time.Millisecond, 300*time.Microsecond, steady(40*time.Millisecond), func() bool { return r.IntN(1000) == 0 })
		if e.Want() < 2 && now.Sub(start) > 5*time.Second {
			t.Fatalf("asks for %d after %v, at a loss taken for %.3f %%", e.Want(), now.Sub(start), 100*e.Loss())
		}
	}
}

// The faster and the longer a path is, the fewer blocks may stay incomplete.
func TestWantFollowsRate(t *testing.T) {
	want := func(gap, latency time.Duration) uint8 {
		e, now, number := NewEstimator(start), start, uint32(0)
		e.SetLatency(start, latency)
		r := rand.New(rand.NewPCG(1, 1))
		feed(e, &now, &number, 20*time.Second, gap, steady(latency/2), func() bool { return r.IntN(50) == 0 })
		return e.Want()
	}
	slow, fast := want(300*time.Microsecond, 20*time.Millisecond), want(60*time.Microsecond, 80*time.Millisecond)
	if fast <= slow {
		t.Errorf("asks for %d at 40 Mbit/s and 20 ms, for %d at 200 Mbit/s and 80 ms", slow, fast)
	}
}

// Packets that come late for a moment, as by a radio, are left out of the loss, those that are lost as
// those that arrive.
func TestLossIsThatOfPacketsInTime(t *testing.T) {
	e, now, number := NewEstimator(start), start, uint32(0)
	r := rand.New(rand.NewPCG(1, 1))
	behind := time.Duration(0)
	delay := func() time.Duration {
		if behind = max(0, behind-300*time.Microsecond); behind == 0 && r.IntN(20) == 0 {
			behind = 16 * time.Millisecond // all that came meanwhile comes at once
		}
		return 40*time.Millisecond + behind
	}
	const spans = 300
	mean := 0.0
	for range spans {
		feed(e, &now, &number, 100*time.Millisecond, 300*time.Microsecond, delay, func() bool { return r.IntN(50) == 0 })
		mean += e.Loss() / spans
	}
	if mean < 0.02 || mean > 0.026 {
		t.Errorf("2 %% of loss is taken for %.2f on average", 100*mean)
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
	for _, skew := range []time.Duration{0, -time.Hour, 3 * time.Second, 3200 * time.Millisecond, 3225 * time.Millisecond, -3330 * time.Millisecond} {
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

// What a queue loses as it overflows is not random: neither when it has become full just now, nor when
// the packet that shows the gap comes after a pause.
func TestOverflowIsNotRandom(t *testing.T) {
	const rate = 50e6 / 8
	never := func(*rand.Rand) bool { return false }
	slowStart := func(since time.Duration) float64 {
		const round = 80 * time.Millisecond
		switch n, in := since/round, since%round; {
		case n < 3 || in > 50*time.Millisecond:
			return 0.5
		case n < 6:
			return 2.5 // what is sent in a round trip comes as one burst
		default:
			return 0.9
		}
	}
	for seed := range uint64(20) {
		e := NewEstimator(start)
		e.SetLatency(start, 80*time.Millisecond)
		h := hop{rate, 0.03 * rate, false, never}
		_, gaps := h.play(rand.New(rand.NewPCG(seed, 1)), e, time.Second, slowStart)
		if gaps < 20 || e.Want() > 4 {
			t.Errorf("seed %d: after an overflow with %d gaps asks for %d, at a loss taken for %.2f %%", seed, gaps, e.Want(), 100*e.Loss())
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

// As many blocks stay incomplete as reckoned.
func TestIncomplete(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, test := range []struct {
		p        float64
		count, m int
	}{{0.05, 64, 5}, {0.02, 20, 1}, {0.1, 40, 8}, {0.05, 1, 1}} {
		bad, blocks := 0, 100_000
		for range blocks {
			n := 0
			for range test.count + test.m {
				if r.Float64() < test.p {
					n++
				}
			}
			if n > test.m {
				bad++
			}
		}
		got, want := float64(bad)/float64(blocks), incomplete(test.p, test.count, test.m, 1)
		if got < 0.9*want || got > 1.1*want {
			t.Errorf("%+v: %v stay incomplete, reckoned %v", test, got, want)
		}
	}
}

// hop is a hop of the path that a sender fills with bursts: a queue, or a policer that makes
// nothing wait; behind it packets are lost at random.
type hop struct {
	rate   float64 // bytes a second
	queue  float64 // bytes
	police bool
	random func(r *rand.Rand) bool
}

// play sends bursts of 14 packets by the hop at a part of its rate, and returns how many of the
// gaps were taken for congestion.
func (h hop) play(r *rand.Rand, e *Estimator, d time.Duration, part func(since time.Duration) float64) (congested, gaps int) {
	const burst, size = 14, 1450
	waiting, last, number, missing := 0.0, start, uint32(7), false
	for now := start; now.Before(start.Add(d)); {
		for range burst {
			waiting = max(0, waiting-now.Sub(last).Seconds()*h.rate)
			last = now
			number++
			if waiting+size > h.queue || h.random(r) {
				if missing = true; waiting+size > h.queue {
					continue
				}
				waiting += size
				continue
			}
			waiting += size
			delay := 40*time.Millisecond + time.Duration(r.ExpFloat64()*float64(100*time.Microsecond))
			if !h.police {
				delay += time.Duration(waiting / h.rate * 1e9)
			}
			c := e.Arrived(now.Add(delay), &Arrival{Number: number, Sent: uint16(ticksOf(now.Sub(start)))})
			if c == Congested {
				congested++
			}
			if missing {
				gaps++
			}
			missing = false
		}
		pause := burst * size / h.rate / part(now.Sub(start)) * (0.5 + r.Float64())
		now = now.Add(time.Duration(pause * 1e9))
	}
	return congested, gaps
}

// Loss that comes with the rate of the sender is told from random loss, however short the queue
// is, and whether there is one.
func TestOurs(t *testing.T) {
	const rate, ms = 50e6 / 8, 50e6 / 8 / 1000
	never := func(*rand.Rand) bool { return false }
	loss := func(p float64) func(*rand.Rand) bool { return func(r *rand.Rand) bool { return r.Float64() < p } }
	runs := func(p float64, n int) func(*rand.Rand) bool {
		left := 0
		return func(r *rand.Rand) bool {
			if left == 0 && r.Float64() < p/float64(n) {
				left = n
			}
			lost := left > 0
			left = max(left-1, 0)
			return lost
		}
	}
	wave := func(top float64) func(time.Duration) float64 { // as congestion control does
		return func(since time.Duration) float64 { return top * (0.7 + 0.3*math.Mod(since.Seconds(), 2)/2) }
	}
	for _, test := range []struct {
		name string
		hop  hop
		part func(time.Duration) float64
		ours bool
	}{
		{"queue of 3 ms", hop{rate, 3 * ms, false, never}, wave(1.05), true},
		{"queue of 4 ms", hop{rate, 4 * ms, false, never}, wave(1.05), true},
		{"policer of 3 ms", hop{rate, 3 * ms, true, never}, wave(1.05), true},
		{"policer of 10 ms", hop{rate, 10 * ms, true, never}, wave(1.1), true},
		{"0.1 % at random", hop{rate, 100 * ms, false, loss(0.001)}, wave(0.8), false},
		{"1 % at random", hop{rate, 100 * ms, false, loss(0.01)}, wave(0.8), false},
		{"5 % at random", hop{rate, 100 * ms, false, loss(0.05)}, wave(0.8), false},
		{"1 % at random of a fast line", hop{4 * rate, 400 * ms, false, loss(0.01)}, wave(0.5), false},
		{"1 % in runs of 4", hop{rate, 100 * ms, false, runs(0.01, 4)}, wave(0.8), false},
	} {
		e := NewEstimator(start)
		congested, gaps := test.hop.play(rand.New(rand.NewPCG(1, 2)), e, 60*time.Second, test.part)
		share := float64(congested) / float64(gaps)
		delays, _ := e.guard.delays.mean()
		places, _ := e.guard.places.mean()
		rates, _ := e.guard.rates.mean()
		t.Logf("%s: %d of %d gaps, delays %.2f, places %.2f, rates %.2f, loss %.4f", test.name, congested, gaps, delays, places, rates, e.Loss())
		if gaps < 50 || test.ours && share < 0.9 || !test.ours && share > 0.02 {
			t.Errorf("%s: %d of %d gaps are taken for congestion", test.name, congested, gaps)
		}
	}
}

// An AQM loses packets only while its queue stands: that is congestion, whatever the length of
// the queue. Where an empty queue loses as many, they are lost at random.
func TestQueueThatStands(t *testing.T) {
	for _, aqm := range []bool{true, false} {
		e, now, number := NewEstimator(start), start, uint32(0)
		r := rand.New(rand.NewPCG(1, 1))
		queue, step := time.Duration(0), 10*time.Microsecond
		delay := func() time.Duration { return 40*time.Millisecond + queue }
		lose := func() bool {
			if queue = max(0, queue+step); queue > 40*time.Millisecond || queue == 0 {
				step = -step
			}
			return r.Float64() < 0.01 && (!aqm || queue > 10*time.Millisecond)
		}
		gaps := 0
		counted := func() bool {
			lost := lose()
			if lost {
				gaps++
			}
			return lost
		}
		congested := feed(e, &now, &number, 60*time.Second, 300*time.Microsecond, delay, counted)
		if share := float64(congested) / float64(gaps); aqm && share < 0.9 || !aqm && share > 0.5 {
			t.Errorf("an AQM %v: %d of %d gaps are congestion", aqm, congested, gaps)
		}
		if aqm && e.Want() > 2 || !aqm && e.Want() < 2 {
			t.Errorf("an AQM %v: asks for %d", aqm, e.Want())
		}
	}
}

// A machine or a radio that stands still for a moment, again and again, is no full queue.
func TestStandstillIsNoQueue(t *testing.T) {
	e, now, number := NewEstimator(start), start, uint32(0)
	r := rand.New(rand.NewPCG(1, 1))
	behind := time.Duration(0)
	delay := func() time.Duration {
		if behind = max(0, behind-300*time.Microsecond); r.IntN(300) == 0 {
			behind = 15 * time.Millisecond // all that came meanwhile comes at once
		}
		return 40*time.Millisecond + behind
	}
	congested := feed(e, &now, &number, 60*time.Second, 300*time.Microsecond, delay, func() bool { return r.IntN(20) == 0 })
	if congested > 10 || e.Want() < 12 {
		t.Errorf("%d gaps are congestion, asks for %d", congested, e.Want())
	}
}

// A verdict that loss is ours is reached anew after a minute: random loss may be too rare to
// show.
func TestVerdictIsReachedAnew(t *testing.T) {
	e := NewEstimator(start)
	short := hop{50e6 / 8, 3 * 50e6 / 8 / 1000, false, func(*rand.Rand) bool { return false }}
	short.play(rand.New(rand.NewPCG(1, 2)), e, 20*time.Second, func(time.Duration) float64 { return 1.05 })
	if !e.Ours() {
		t.Fatal("a short queue is not found out")
	}
	now, number := start.Add(20*time.Second), e.highest
	r := rand.New(rand.NewPCG(3, 4))
	feed(e, &now, &number, 2*oursTime, 3*time.Millisecond, steady(40*time.Millisecond), func() bool { return r.IntN(200) == 0 })
	if e.Ours() || e.Want() == 0 {
		t.Errorf("0.5 %% lost at random: ours %v, asks for %d", e.Ours(), e.Want())
	}
	unguarded := NewEstimator(start)
	unguarded.Guard(false)
	short.play(rand.New(rand.NewPCG(1, 2)), unguarded, 20*time.Second, func(time.Duration) float64 { return 1.05 })
	if unguarded.Ours() {
		t.Error("a verdict without the guard")
	}
}

// A verdict stays while gaps are too rare for all that led to it.
func TestVerdictStaysWhileLittleIsKnown(t *testing.T) {
	g := newGuard()
	g.ours, g.judged = true, start
	now := start.Add(time.Second)
	for i, r := range []*ranks{&g.rates, &g.places, &g.delays} {
		for class := range 10 * rankEnough {
			r.note(class % 10)
		}
		for range 2 * gapsEnough {
			r.gap(5)
		}
		if mean, ok := r.mean(); !ok || mean > oursBelow {
			t.Fatalf("ranks %d: mean %v, %v", i, mean, ok)
		}
		if g.judge(now); g.ours != (i < 2) {
			t.Errorf("%d of three are known to be those of random loss: ours %v", i+1, g.ours)
		}
	}
}

// bottleneck is a queue that a sender fills with as many packets as its window allows, and that
// others may fill as well.
type bottleneck struct {
	rate    float64       // packets a second
	latency time.Duration // of an empty queue, there and back
	others  func(at time.Duration) time.Duration
	pongs   bool // the round trip is known from them only, with the queue in it, but for the first one
}

// play lets a window grow by one packet a round trip, from a slow start on, be cut by three tenths
// when QUIC is told, and returns the mean of the queueing delay of the second half and how often
// it was told.
func (b bottleneck) play(e *Estimator, d time.Duration) (mean time.Duration, told int) {
	e.SetLatency(start, b.latency)
	window, slow, number := 32.0, true, uint32(0)
	sum, n := time.Duration(0), 0
	cut := start
	for now := start; now.Sub(start) < d; {
		own := max(0, time.Duration((window/b.rate)*1e9)-b.latency)
		queue := own + b.others(now.Sub(start))
		round := b.latency + queue
		if b.pongs {
			e.SetLatency(now, round)
		}
		for range int(window) {
			number++
			sent := now
			now = now.Add(time.Duration(float64(round) / window))
			signal := e.Arrived(now.Add(b.latency/2+queue), &Arrival{Number: number, Sent: uint16(ticksOf(sent.Sub(start)))})
			if signal != Clear && now.Sub(cut) > round {
				window, slow, cut = 0.7*window, false, now
				told++
			}
		}
		if window++; slow {
			window = 2*window - 2
		}
		if now.Sub(start) > d/2 {
			sum, n = sum+queue, n+1
		}
	}
	return sum / time.Duration(n), told
}

// A queue that is ours is kept short, and the line busy. To one that others keep full no more is
// given way than now and then.
func TestStandingQueue(t *testing.T) {
	none := func(time.Duration) time.Duration { return 0 }
	for _, test := range []struct {
		name        string
		b           bottleneck
		least, most time.Duration // mean of the delay
		tolds       int           // at most, in two minutes
	}{
		{"20 ms", bottleneck{4000, 20 * time.Millisecond, none, false}, time.Millisecond, 10 * time.Millisecond, 200},
		{"20 ms, by pongs", bottleneck{4000, 20 * time.Millisecond, none, true}, time.Millisecond, 10 * time.Millisecond, 200},
		{"80 ms", bottleneck{4000, 80 * time.Millisecond, none, false}, 5 * time.Millisecond, 40 * time.Millisecond, 60},
		{"others", bottleneck{4000, 80 * time.Millisecond, func(at time.Duration) time.Duration {
			if at < time.Second {
				return 0
			}
			return 60*time.Millisecond + time.Duration(at%(4*time.Second))/100
		}, false}, 60 * time.Millisecond, time.Second, 14},
	} {
		mean, told := test.b.play(NewEstimator(start), 2*time.Minute)
		t.Logf("%s: mean %v, told %d times", test.name, mean, told)
		if mean < test.least || mean > test.most || told > test.tolds || told == 0 {
			t.Errorf("%s: the queue is %v long on average, QUIC was told %d times", test.name, mean, told)
		}
	}
}

// QUIC is not told a second time by what it sent before it knew of the first, which it would not heed.
func TestToldTwiceOnlyOfWhatWasSentSince(t *testing.T) {
	const ms = time.Millisecond
	s := stander{latency: 20 * ms}
	s.note(start, 0, 0)
	for at, told := 40*ms, time.Duration(0); at < time.Second; at += ms {
		queue := min(10*ms+(at-40*ms)/2, 45*ms) // slow start goes on
		if !s.note(start.Add(at), min(queue, 28*ms), queue) {
			continue
		}
		if told > 0 {
			if sent := at - queue - 10*ms; sent < told+10*ms {
				t.Errorf("told at %v, and again at %v by a packet of %v", told, at, sent)
			}
			return
		}
		told = at
	}
	t.Error("not told twice")
}

// A queue that came in slow start goes on to grow until QUIC knows: that it is not much shorter two
// round trips later means nothing, when that happens once. One that was there before is that of
// others then.
func TestSlowStartIsOurs(t *testing.T) {
	const ms = time.Millisecond
	for _, test := range []struct {
		name   string
		before time.Duration   // between the time without a queue and the first
		queues []time.Duration // each 75 ms after the one before
		told   []bool
	}{
		{"slow start", 40 * ms, []time.Duration{14 * ms, 8 * ms, 12 * ms, 1 * ms, 12 * ms}, []bool{true, false, true, false, true}},
		{"twice no shorter", 40 * ms, []time.Duration{14 * ms, 12 * ms, 13 * ms, 14 * ms, 14 * ms}, []bool{true, true, false, false, false}},
		{"of others", 500 * ms, []time.Duration{14 * ms, 12 * ms, 13 * ms, 14 * ms}, []bool{true, false, false, false}},
	} {
		s := stander{latency: 20 * ms}
		now := start
		s.note(now, 0, 0)
		now = now.Add(test.before)
		for i, queue := range test.queues {
			if told := s.note(now, queue, queue); told != test.told[i] {
				t.Errorf("%s: queue %d, %v: told %v", test.name, i, queue, told)
			}
			now = now.Add(75 * ms)
		}
	}
}
