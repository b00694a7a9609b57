package ratelimit

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// PrefixOf returns the prefix by which an address is limited: what one
// customer usually has.
func PrefixOf(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 24
	if a.Is6() {
		bits = 56
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// Bucket is a token bucket; the holder guards it. The zero value is a full one.
type Bucket struct {
	tokens float64
	last   time.Time
}

// fill adds what came in since the last call at rate a second, up to burst. A
// new bucket is full.
func (b *Bucket) fill(now time.Time, rate, burst float64) {
	if b.last.IsZero() {
		b.tokens = burst
	} else {
		b.tokens = min(burst, b.tokens+rate*now.Sub(b.last).Seconds())
	}
	b.last = now
}

// Take takes one token if there is one.
func (b *Bucket) Take(now time.Time, rate, burst float64) bool {
	b.fill(now, rate, burst)
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// Spend takes n tokens and returns how long it takes to earn those back that
// were not there.
func (b *Bucket) Spend(now time.Time, n, rate, burst float64) time.Duration {
	b.fill(now, rate, burst)
	b.tokens -= n
	if b.tokens >= 0 {
		return 0
	}
	return time.Duration(-b.tokens / rate * float64(time.Second))
}

// Shared is a token bucket of many.
type Shared struct {
	mu sync.Mutex // guards b
	b  Bucket
}

// Spend is Bucket.Spend.
func (s *Shared) Spend(now time.Time, n, rate, burst float64) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Spend(now, n, rate, burst)
}

// Table is a table of fixed size of buckets, in two rows. A prefix has one of each, shared with those that
// hash alike, and may what either allows: who shares one with somebody that empties it loses
// nothing. Nobody outside can tell who shares both.
type Table struct {
	rate  float64 // a second; 0: no limit
	burst float64
	seed  maphash.Seed

	mu   sync.Mutex // guards the buckets
	rows [2][2048]Bucket
}

// NewTable limits each prefix to so many tokens a second, and as many at once; 0: no limit.
func NewTable(perSecond int) *Table {
	return &Table{rate: float64(perSecond), burst: float64(perSecond), seed: maphash.MakeSeed()}
}

// NewTableOver limits each prefix to n tokens within any span of d; half of them at once.
func NewTableOver(n int, d time.Duration) *Table {
	half := float64(n) / 2
	return &Table{rate: half / d.Seconds(), burst: half, seed: maphash.MakeSeed()}
}

// Allow takes one token for the address, from each of its buckets.
func (r *Table) Allow(a netip.Addr, now time.Time) (allowed bool) {
	if r.rate == 0 {
		return true
	}
	places := r.places(a)
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, place := range places {
		if r.rows[i][place].Take(now, r.rate, r.burst) {
			allowed = true
		}
	}
	return allowed
}

// places returns where the buckets of an address are in the two rows.
func (r *Table) places(a netip.Addr) [2]uint32 {
	h := maphash.Comparable(r.seed, PrefixOf(a))
	return [2]uint32{uint32(h) % uint32(len(r.rows[0])), uint32(h>>32) % uint32(len(r.rows[1]))}
}
