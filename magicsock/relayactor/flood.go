package relayactor

import (
	"errors"
	"sync/atomic"
	"time"
)

// What nodes that are not admitted send through a relay is dropped unread (S26). It costs the
// way to this host all the same, and only the relay could stop it: above floodRate for
// floodTime it is said, and the next relay of the list is home from then on if it can be
// reached. The one that is flooded is left alone for floodPause, at most twice.
const (
	floodRate   = 64 << 10 // bytes a second
	floodWindow = time.Second
	floodTime   = 5 * floodWindow
	// floodMemory is how long a flood counts after the last window that was too full.
	floodMemory = 10 * time.Second
	floodPause  = 2 * time.Minute
)

// errFlooded ends the connection to a relay in place of which another one is home.
var errFlooded = errors.New("others flood this node through it")

// flood watches what of one relay is dropped unread.
type flood struct {
	// Those of the goroutine that reads.
	window time.Time // when it began
	bytes  int       // in it
	full   time.Time // when the first of those began that were too full, one after the other

	seen atomic.Int64 // when it was last seen to go on, Unix nanoseconds
}

// add counts a frame that was dropped, and reports whether that makes a flood, or that it goes
// on, at most once in a window.
func (f *flood) add(now time.Time, n int) bool {
	if age := now.Sub(f.window); age >= floodWindow {
		if f.bytes <= floodRate || age >= 2*floodWindow {
			f.full = now
		}
		f.window, f.bytes = now, 0
	}
	before := f.bytes
	f.bytes += n
	if before > floodRate || f.bytes <= floodRate || now.Sub(f.full) < floodTime-floodWindow {
		return false
	}
	f.seen.Store(now.UnixNano())
	return true
}

// now says that there is a flood.
func (f *flood) now(now time.Time) bool {
	seen := f.seen.Load()
	return seen != 0 && now.Sub(time.Unix(0, seen)) < floodMemory
}
