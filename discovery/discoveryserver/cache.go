package discoveryserver

import (
	"context"
	"errors"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/nodetun/nodetun/discovery/pkarr"
	"github.com/nodetun/nodetun/identity"
)

// cache answers the DNS: often without asking the store, and for a while when that is out of
// order.
type cache struct {
	store   Store
	packets *lru.Cache[identity.NodeID, cached]
}

// cached is a packet, or, with the zero one, that there is none, as of a time.
type cached struct {
	packet pkarr.Packet
	at     time.Time
}

const (
	maxCached = 1 << 16
	// cacheFresh is for how long the store is not asked again, which another server may
	// have changed, and cacheStale for how long an answer will do when it is out of order.
	cacheFresh = 5 * time.Second
	cacheStale = time.Hour
)

func newCache(store Store) *cache {
	packets, err := lru.New[identity.NodeID, cached](maxCached)
	if err != nil {
		panic("discovery: " + err.Error()) // of a size below one alone
	}
	return &cache{store, packets}
}

// put notes a packet that the store took.
func (c *cache) put(p pkarr.Packet) { c.packets.Add(p.ID(), cached{p, time.Now()}) }

// get returns the packet of a node, or ErrNotFound, or what is wrong with the store.
func (c *cache) get(ctx context.Context, id identity.NodeID) (pkarr.Packet, error) {
	have, known := c.packets.Get(id)
	if known && time.Since(have.at) < cacheFresh {
		return have.result()
	}
	p, err := c.store.Get(ctx, id)
	switch {
	case err == nil, errors.Is(err, ErrNotFound):
		c.packets.Add(id, cached{p, time.Now()})
		return p, err
	case known && time.Since(have.at) < cacheStale:
		return have.result()
	default:
		return p, err
	}
}

func (c cached) result() (pkarr.Packet, error) {
	if c.packet.ID().IsZero() {
		return pkarr.Packet{}, ErrNotFound
	}
	return c.packet, nil
}
