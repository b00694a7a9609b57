package discovery

import (
	"context"
	"errors"
	"sync"

	"github.com/nodetun/nodetun/identity"
)

// Concurrent asks several sources side by side. What one finds is passed on at once; one
// that fails or is slow stops no other.
type Concurrent []Resolver

// Resolve returns when all sources are done. The error joins theirs if nothing was found.
func (c Concurrent) Resolve(ctx context.Context, id identity.NodeID, found func(Item)) error {
	var (
		tasks sync.WaitGroup
		mu    sync.Mutex // guards the two below
		errs  []error
		some  bool
	)
	for _, source := range c {
		tasks.Go(func() {
			err := source.Resolve(ctx, id, func(item Item) {
				mu.Lock()
				some = true
				mu.Unlock()
				found(item)
			})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
			}
		})
	}
	tasks.Wait()
	if some {
		return nil
	}
	return errors.Join(errs...)
}

// Publishers makes a node known by all of several.
type Publishers []Publisher

// Publish implements Publisher.
func (p Publishers) Publish(addr identity.NodeAddr) {
	for _, publisher := range p {
		publisher.Publish(addr)
	}
}
