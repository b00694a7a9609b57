package pkarr

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nodetun/nodetun/discovery"
	"github.com/nodetun/nodetun/identity"
)

// Resolver asks one server.
type Resolver struct {
	Client Client
	// History knows the newest packets that were seen; nil: none is too old.
	History *History
}

var _ discovery.Resolver = Resolver{}

// Resolve asks once.
func (r Resolver) Resolve(ctx context.Context, id identity.NodeID, found func(discovery.Item)) error {
	p, err := r.Client.Get(ctx, id)
	if err == nil {
		err = r.History.Check(p, time.Now())
	}
	if err != nil {
		return fmt.Errorf("pkarr: %w", err)
	}
	found(discovery.Item{Addr: p.Addr(), Source: "pkarr", Signed: p.Time()})
	return nil
}

// ErrReplayed says that a packet is older than one that was seen before.
var ErrReplayed = errors.New("the record is older than one that was seen before")

// maxAhead is how far in the future the timestamp of a packet may be to be remembered:
// the clock of a node that was ahead once must not lock it out (S27).
const maxAhead = 24 * time.Hour

// maxHistory bounds the nodes in a History.
const maxHistory = 4096

// History remembers the timestamp of the newest packet of each node, so that nobody can
// pass off an older one as new. The zero value is empty; it may be used from any goroutine.
type History struct {
	mu   sync.Mutex
	last map[identity.NodeID]uint64 // guarded by mu
}

// Check returns ErrReplayed for a packet that is older than the newest, and remembers it
// otherwise.
func (h *History) Check(p Packet, now time.Time) error {
	if h == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	last := h.last[p.ID()]
	if p.Timestamp() < last {
		return fmt.Errorf("%w (%s)", ErrReplayed, timeOf(last).UTC().Format(time.RFC3339))
	}
	if p.Time().Before(now.Add(maxAhead)) {
		h.setLocked(p.ID(), p.Timestamp())
	}
	return nil
}

// Set says what is known of before.
func (h *History) Set(id identity.NodeID, timestamp uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.setLocked(id, max(timestamp, h.last[id]))
}

func (h *History) setLocked(id identity.NodeID, timestamp uint64) {
	if h.last == nil {
		h.last = make(map[identity.NodeID]uint64)
	}
	if _, ok := h.last[id]; !ok && len(h.last) >= maxHistory {
		for some := range h.last { // any of them: those of peers are set again at the next start
			delete(h.last, some)
			break
		}
	}
	h.last[id] = timestamp
}

// Newest returns the timestamp of the newest packet of the node, 0 if none was seen.
func (h *History) Newest(id identity.NodeID) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last[id]
}
