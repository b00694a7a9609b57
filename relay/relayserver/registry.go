package relayserver

import (
	"sync"
	"sync/atomic"

	"github.com/nodetun/nodetun/identity"
)

// registry knows the client of each node.
type registry struct {
	mu      sync.RWMutex // guards clients
	clients map[identity.NodeID]*client
	past    atomic.Uint64 // packets dropped from queues of clients that left
}

func (r *registry) get(id identity.NodeID) *client {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.clients[id]
}

// swap puts c in the place of old, which is nil if there is to be none, and
// reports whether old was there. When it was not, it returns who is.
func (r *registry) swap(old, c *client) (now *client, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now = r.clients[c.id]
	if now != nil && now != old {
		return now, false
	}
	r.clients[c.id] = c
	return c, true
}

// remove takes c out, and reports false when another has taken its place.
func (r *registry) remove(c *client) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.past.Add(c.queue.Dropped())
	if r.clients[c.id] != c {
		return false
	}
	delete(r.clients, c.id)
	return true
}

func (r *registry) len() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.clients)
}

func (r *registry) dropped() uint64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	n := r.past.Load()
	for _, c := range r.clients {
		n += c.queue.Dropped()
	}
	return n
}
