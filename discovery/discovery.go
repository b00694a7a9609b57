package discovery

import (
	"context"
	"time"

	"github.com/nodetun/nodetun/identity"
)

// Item is one answer of a source.
type Item struct {
	// Addr is where the node may be; its ID is the one that was asked for.
	Addr identity.NodeAddr
	// Source names who says so, for status.
	Source string
	// Signed is when the node itself said so, and signed it; zero: it did not.
	Signed time.Time
}

// Resolver finds addresses of nodes.
type Resolver interface {
	// Resolve looks for the node and calls found for each answer, perhaps
	// several times, until it knows no more or ctx ends. found returns at once
	// and may be called from any goroutine, but not after Resolve returned.
	Resolve(ctx context.Context, id identity.NodeID, found func(Item)) error
}

// Publisher makes this node known.
type Publisher interface {
	// Publish replaces what was published before. It returns at once; the rest is
	// done while the Publisher runs.
	Publish(addr identity.NodeAddr)
}
