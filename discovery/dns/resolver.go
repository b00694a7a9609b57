package dns

import (
	"context"
	"fmt"

	"github.com/nodetun/nodetun/discovery"
	"github.com/nodetun/nodetun/identity"
)

// DefaultOrigin is the zone of number 0, where iroh-net looks.
const DefaultOrigin = "dns.iroh.link"

// Resolver finds nodes below one origin.
type Resolver struct {
	Origin string
	// Client asks; the zero value is one.
	Client Client
}

var _ discovery.Resolver = (*Resolver)(nil)

// Resolve asks once.
func (r *Resolver) Resolve(ctx context.Context, id identity.NodeID, found func(discovery.Item)) error {
	list, err := r.Client.TXT(ctx, discovery.Label+"."+id.Z32()+"."+r.Origin)
	if err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	found(discovery.Item{Addr: discovery.ParseRecords(id, list), Source: "dns"})
	return nil
}
