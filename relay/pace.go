package relay

import "time"

// Bounds of a Pace, in bytes.
const (
	minPace   = 4 << 10
	firstPace = 16 << 10
	maxPace   = blockSize
	// A write that takes longer than slowWrite was too much; one that takes less than
	// quickWrite, several times in a row, may be more.
	slowWrite  = 20 * time.Millisecond
	quickWrite = 5 * time.Millisecond
	quickRuns  = 4
)

// Pace finds out how much a connection takes within some milliseconds. What lies in
// one write, and unsent in the kernel, is in front of a pong that is due: on a slow
// link it must be little, for iroh 1.x takes a relay for dead whose pong is half a
// second late. On a fast one much saves calls.
//
// The zero value begins carefully. It belongs to the goroutine that writes.
type Pace struct {
	limit int // 0: firstPace
	quick int // quick writes in a row
}

// Limit is how many bytes one write should have, and the kernel keep unsent.
func (p *Pace) Limit() int {
	if p.limit == 0 {
		return firstPace
	}
	return p.limit
}

// Wrote takes in how long a write of n bytes took, and reports whether Limit is
// another now.
func (p *Pace) Wrote(n int, took time.Duration) (changed bool) {
	limit := p.Limit()
	switch {
	case took > slowWrite:
		p.quick = 0
		p.limit = max(limit/2, minPace)
	case took < quickWrite && n >= limit/2:
		if p.quick++; p.quick < quickRuns {
			return false
		}
		p.quick = 0
		p.limit = min(limit*2, maxPace)
	default:
		p.quick = 0
		return false
	}
	return p.limit != limit
}
