package relayserver

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
)

// maxSpares is how many connections of one node may wait behind the one that gets
// its packets.
const maxSpares = 4

const (
	// restartAfter is how long a new process may need until it listens.
	restartAfter = 100 * time.Millisecond
	// restartSpread is over how long a hundred clients come back.
	restartSpread = 100 * time.Millisecond
	// restartTry is how long clients are told to try.
	restartTry = time.Minute
)

// registry knows the connections of each node: the one that gets its packets, and
// those that wait, the youngest last.
type registry struct {
	mu      sync.RWMutex // guards clients and spares
	clients map[identity.NodeID]*client
	spares  map[identity.NodeID][]*client // no entry for none
	past    atomic.Uint64                 // packets dropped from queues of clients that left
}

func (r *registry) get(id identity.NodeID) *client {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.clients[id]
}

// has says that a node is connected.
func (r *registry) has(id identity.NodeID) bool { return r.get(id) != nil }

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

// push puts c before whoever has the place of its node, who becomes a spare and is
// returned. excess is a spare too many, nil for none.
func (r *registry) push(c *client) (spare, excess *client) {
	r.mu.Lock()
	defer r.mu.Unlock()
	spare = r.clients[c.id]
	r.clients[c.id] = c
	if spare == nil {
		return nil, nil
	}
	list := append(r.spares[c.id], spare)
	if len(list) > maxSpares {
		excess, list = list[0], list[1:]
	}
	r.spares[c.id] = list
	return spare, excess
}

// remove takes c out. The youngest spare takes its place and is returned; gone says
// that the node has no connection any more.
func (r *registry) remove(c *client) (promoted *client, gone bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.past.Add(c.queue.Dropped())
	list := r.spares[c.id]
	if r.clients[c.id] == c {
		delete(r.clients, c.id)
		if last := len(list) - 1; last >= 0 {
			promoted, list = list[last], list[:last]
			r.clients[c.id] = promoted
		}
	} else {
		list = slices.DeleteFunc(list, func(other *client) bool { return other == c })
	}
	if len(list) == 0 {
		delete(r.spares, c.id)
	} else {
		r.spares[c.id] = list
	}
	return promoted, r.clients[c.id] == nil
}

// announceRestart tells every client that the relay goes, and when to come back:
// each at another moment, some thousand a second.
func (r *registry) announceRestart() {
	r.mu.RLock()
	defer r.mu.RUnlock()
	spread := min(max(restartSpread, restartSpread*time.Duration(len(r.clients))/100), restartTry/4)
	for _, c := range r.clients {
		c.queue.PushControl(relay.AppendRestarting(nil, restartAfter+rand.N(spread), restartTry))
	}
}

// len counts nodes.
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
	for _, list := range r.spares {
		for _, c := range list {
			n += c.queue.Dropped()
		}
	}
	return n
}
