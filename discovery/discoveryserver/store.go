package discoveryserver

import (
	"context"
	"errors"
	"time"

	"github.com/nodetun/nodetun/discovery/pkarr"
	"github.com/nodetun/nodetun/identity"
)

// Store keeps the newest packet of each node. Its methods may be called from any
// goroutine.
type Store interface {
	// Put keeps the packet if it is newer than the one it has; a newer one, or the
	// same, that it has is reported as ErrOlder or as ErrSame. What it accepted
	// outlives a crash.
	Put(ctx context.Context, p pkarr.Packet) error
	// Get returns the packet of a node, or ErrNotFound.
	Get(ctx context.Context, id identity.NodeID) (pkarr.Packet, error)
	// Evict removes packets that were last put before a time and reports how many.
	Evict(ctx context.Context, before time.Time) (int, error)
	// Close ends the use of the store.
	Close() error
}

// Errors of stores; all others say that the store is out of order.
var (
	ErrNotFound = errors.New("no packet of the node")
	ErrOlder    = errors.New("there is a newer packet of the node")
	ErrSame     = errors.New("the packet is there already")
)

// compare says what a store does with a packet: nil to keep it.
func compare(p, have pkarr.Packet) error {
	switch {
	case p.NewerThan(have):
		return nil
	case have.NewerThan(p):
		return ErrOlder
	default:
		return ErrSame
	}
}
