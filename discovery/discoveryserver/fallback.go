package discoveryserver

import (
	"context"
	"errors"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/nodetun/nodetun/discovery/dht"
	"github.com/nodetun/nodetun/discovery/pkarr"
	"github.com/nodetun/nodetun/identity"
)

// Getter finds packets elsewhere. The error wraps pkarr.ErrNotFound if there is none.
type Getter interface {
	Get(ctx context.Context, id identity.NodeID) (pkarr.Packet, error)
}

// DHT is the Mainline DHT as a fallback.
func DHT() Getter { return dht.New(dht.Config{}) }

// fallback answers the DNS about nodes that the store does not know. That may take longer
// than who asks waits: the search goes on, and its next question is answered.
type fallback struct {
	getter Getter
	life   context.Context // of all searches
	tasks  sync.WaitGroup

	mu      sync.Mutex // guards the fields below
	known   *lru.Cache[identity.NodeID, cached]
	running map[identity.NodeID]chan struct{} // closed at the end
	closed  bool
}

const (
	// foundFor and missingFor are for how long nothing is searched for again.
	foundFor, missingFor = 5 * time.Minute, time.Minute
	maxSearches          = 16
	searchTime           = 15 * time.Second
)

// errLater says that a search goes on, or could not begin.
var errLater = errors.New("ask again")

func newFallback(life context.Context, getter Getter) *fallback {
	known, err := lru.New[identity.NodeID, cached](maxCached)
	if err != nil {
		panic("discovery: " + err.Error()) // of a size below one alone
	}
	return &fallback{getter: getter, life: life, known: known, running: make(map[identity.NodeID]chan struct{})}
}

// get returns the packet of a node, ErrNotFound, or errLater when ctx ends before.
func (f *fallback) get(ctx context.Context, id identity.NodeID) (pkarr.Packet, error) {
	for {
		f.mu.Lock()
		if have, ok := f.known.Get(id); ok {
			p, err := have.result()
			lasts := foundFor
			if err != nil {
				lasts = missingFor
			}
			if time.Since(have.at) < lasts {
				f.mu.Unlock()
				return p, err
			}
		}
		done := f.searchLocked(id)
		f.mu.Unlock()
		if done == nil {
			return pkarr.Packet{}, errLater
		}
		select {
		case <-done:
		case <-ctx.Done():
			return pkarr.Packet{}, errLater
		}
	}
}

// searchLocked joins the search for a node, or begins one; nil if that cannot be.
func (f *fallback) searchLocked(id identity.NodeID) chan struct{} {
	if done := f.running[id]; done != nil {
		return done
	}
	if f.closed || len(f.running) >= maxSearches {
		return nil
	}
	done := make(chan struct{})
	f.running[id] = done
	f.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(f.life, searchTime)
		defer cancel()
		p, err := f.getter.Get(ctx, id)
		if err != nil {
			p = pkarr.Packet{} // what is wrong there is as good as nothing for a while
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.known.Add(id, cached{p, time.Now()})
		delete(f.running, id)
		close(done)
	})
	return done
}

// close waits for the searches, whose life has ended.
func (f *fallback) close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.tasks.Wait()
}
