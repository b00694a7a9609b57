package engine

import (
	"sync"
	"time"
)

// rate lets one event pass every interval; the zero value is ready for use.
type rate struct {
	mu   sync.Mutex
	next time.Time
}

// allow reports whether an event may pass at the given time.
func (r *rate) allow(now time.Time, interval time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Before(r.next) {
		return false
	}
	r.next = now.Add(interval)
	return true
}
