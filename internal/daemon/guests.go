package daemon

import (
	"sync"
	"time"

	"github.com/nodetun/nodetun/identity"
)

// guests are nodes that are no peers and are listened to all the same: those that may show
// the secret of an invite, and those whose invite is being used here (S24).
type guests struct {
	// open reports whether a stranger is listened to.
	open func(identity.NodeID) bool
	// gone is called when one is not listened to any more.
	gone func(identity.NodeID)

	mu    sync.Mutex // guards the fields below
	here  map[identity.NodeID]*time.Timer
	hosts map[identity.NodeID]int
}

const (
	// maxGuests are listened to at a time, each for guestTime.
	maxGuests = 16
	guestTime = 30 * time.Second
)

func newGuests(open func(identity.NodeID) bool, gone func(identity.NodeID)) *guests {
	return &guests{open: open, gone: gone, here: make(map[identity.NodeID]*time.Timer), hosts: make(map[identity.NodeID]int)}
}

// admit reports whether a node that is no peer is listened to.
func (g *guests) admit(id identity.NodeID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.hosts[id] > 0 {
		return true
	}
	if !g.open(id) {
		return false
	}
	if g.here[id] != nil {
		return true
	}
	if len(g.here) >= maxGuests {
		return false
	}
	g.here[id] = time.AfterFunc(guestTime, func() { g.leave(id) })
	return true
}

// leave ends the stay of a node.
func (g *guests) leave(id identity.NodeID) {
	g.mu.Lock()
	timer := g.here[id]
	delete(g.here, id)
	g.mu.Unlock()
	if timer != nil {
		timer.Stop()
		g.gone(id)
	}
}

// visit lets a node answer whose invite is used, until the end is called.
func (g *guests) visit(id identity.NodeID) (end func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hosts[id]++
	return func() {
		g.mu.Lock()
		if g.hosts[id]--; g.hosts[id] == 0 {
			delete(g.hosts, id)
		}
		g.mu.Unlock()
		g.gone(id)
	}
}

// close ends all stays.
func (g *guests) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, timer := range g.here {
		timer.Stop()
	}
	clear(g.here)
}
