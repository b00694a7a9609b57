package static

import (
	"context"
	"slices"
	"sync"

	"github.com/nodetun/nodetun/discovery"
	"github.com/nodetun/nodetun/identity"
)

// Source answers from memory. The zero value knows nothing; all methods may be
// called concurrently.
type Source struct {
	mu    sync.RWMutex
	addrs map[identity.NodeID]identity.NodeAddr
}

var _ discovery.Resolver = (*Source)(nil)

// Set replaces what is known of the node; an empty address removes it.
func (s *Source) Set(addr identity.NodeAddr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.addrs == nil {
		s.addrs = make(map[identity.NodeID]identity.NodeAddr)
	}
	if addr.IsEmpty() {
		delete(s.addrs, addr.ID)
		return
	}
	addr.Direct = slices.Clone(addr.Direct)
	s.addrs[addr.ID] = addr
}

// Resolve answers at once with what was set, if anything.
func (s *Source) Resolve(_ context.Context, id identity.NodeID, found func(discovery.Item)) error {
	s.mu.RLock()
	addr, ok := s.addrs[id]
	addr.Direct = slices.Clone(addr.Direct)
	s.mu.RUnlock()
	if ok {
		found(discovery.Item{Addr: addr, Source: "static"})
	}
	return nil
}
