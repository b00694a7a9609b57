package dnsmap

import (
	"testing"
	"time"
)

// S20: whatever asks as fast as it can has at most 2000 questions heard in any second,
// and 1800 in each of many.
func TestS20Bucket(t *testing.T) {
	g := newGuard(nil)
	now := time.Unix(1000, 0)
	ask := func(d time.Duration) (heard int) {
		for end := now.Add(d); now.Before(end); now = now.Add(20 * time.Microsecond) {
			if g.rate.allowAt(now) {
				heard++
			}
		}
		return heard
	}
	if n := ask(time.Second); n < 1990 || n > 2000 {
		t.Errorf("%d in the first second", n)
	}
	if n := ask(10 * time.Second); n < 17990 || n > 18010 {
		t.Errorf("%d in ten more", n)
	}
	now = now.Add(time.Minute)
	if n := ask(10 * time.Millisecond); n < rateBurst || n > rateBurst+20 {
		t.Errorf("%d at once after a pause", n)
	}
}
