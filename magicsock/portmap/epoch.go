package portmap

import (
	"sync"
	"time"
)

// epoch follows the clock of a router, which starts at 0 when the router
// forgets its mappings.
type epoch struct {
	// lost is called when the router has forgotten.
	lost func()

	mu     sync.Mutex // guards the fields below
	heard  bool
	server time.Duration
	at     time.Time
}

// update takes what the router said at a time. It has forgotten if its clock
// shows less than 7/8 of what it should by ours, less 2 s (RFC 6886 3.6;
// RFC 6887 8.5 tolerates less). A clock that is ahead is none of a router that
// forgot: ours stands still in sleep.
func (e *epoch) update(server time.Duration, now time.Time) {
	if e.behind(server, now) {
		e.lost()
	}
}

func (e *epoch) behind(server time.Duration, now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	expected := e.server + now.Sub(e.at)*7/8 - 2*time.Second
	behind := e.heard && server < expected
	e.heard, e.server, e.at = true, server, now
	return behind
}
