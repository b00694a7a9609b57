package nodemap

import "time"

// bucket is a token bucket of one second's depth. The zero value is full.
type bucket struct {
	spent float64
	at    time.Time
}

// take takes one token of a bucket that refills at rate a second.
func (b *bucket) take(now time.Time, rate float64) bool {
	if d := now.Sub(b.at); !b.at.IsZero() && d > 0 {
		b.spent = max(0, b.spent-d.Seconds()*rate)
	}
	if b.at.Before(now) {
		b.at = now
	}
	if b.spent+1 > rate {
		return false
	}
	b.spent++
	return true
}

// refund gives back the token just taken.
func (b *bucket) refund() { b.spent = max(0, b.spent-1) }
