package fec

// A queue that overflows loses packets at its worst moments: the packet before a gap was late, or
// deep in a burst. Where loss is random, the one before a gap is a packet like any other. So what
// tells the two apart, however short the queue is, is the rank of a packet before a gap among all
// of late, by its delay or by its place in a burst: one half on average if loss is random.
const (
	rankClasses = 64
	rankMemory  = 4096     // packets of late; up to half of them older
	rankEnough  = 200      // packets until a rank means something
	rankWeight  = 1.0 / 16 // of one gap in the mean: that of random loss is off by 0.05
	// oursAbove and oursBelow are the means from which on loss comes with our own rate, and
	// below which it does not any more.
	oursAbove, oursBelow = 0.75, 0.65
)

// ranks tells where the values before gaps lie among all.
type ranks struct {
	count [rankClasses]uint32
	all   uint32
	mean  float64
}

// note takes in the value of a packet, a class from 0 on.
func (r *ranks) note(v int) {
	if r.all >= rankMemory {
		r.all = 0
		for i := range r.count {
			r.count[i] /= 2
			r.all += r.count[i]
		}
	}
	r.count[min(v, rankClasses-1)]++
	r.all++
}

// gap takes in the value of a packet that was the last before a gap.
func (r *ranks) gap(v int) {
	if r.all < rankEnough {
		return
	}
	v = min(v, rankClasses-1)
	rank := float64(r.count[v]) / 2
	for _, n := range r.count[:v] {
		rank += float64(n)
	}
	r.mean += rankWeight * (rank/float64(r.all) - r.mean)
}
