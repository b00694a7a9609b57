package daemon

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nodetun/nodetun/discovery"
	"github.com/nodetun/nodetun/discovery/dns"
	"github.com/nodetun/nodetun/discovery/mdns"
	"github.com/nodetun/nodetun/discovery/pkarr"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/config"
	"github.com/nodetun/nodetun/internal/localapi"
	"github.com/nodetun/nodetun/internal/proxies"
)

// lookupTimeout is for how long a source is waited for.
const lookupTimeout = 10 * time.Second

// lookup asks all sources side by side and tells what each of them says.
func (f *finder) lookup(ctx context.Context, id identity.NodeID) localapi.Lookup {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	out := localapi.Lookup{ID: id, Sources: make([]localapi.LookupSource, len(f.sources))}
	var tasks sync.WaitGroup
	for i, s := range f.sources {
		row := &out.Sources[i]
		*row = localapi.LookupSource{Name: s.name, Server: s.server, Off: s.off, Addrs: []string{}}
		if s.resolver != nil {
			tasks.Go(func() { askSource(ctx, s.resolver, id, row) })
		}
	}
	tasks.Wait()
	return out
}

// askSource fills in what one source says.
func askSource(ctx context.Context, r discovery.Resolver, id identity.NodeID, row *localapi.LookupSource) {
	var mu sync.Mutex // guards row: a source may answer from any goroutine
	began := time.Now()
	err := r.Resolve(ctx, id, func(item discovery.Item) {
		mu.Lock()
		defer mu.Unlock()
		row.Found, row.TookMS = true, milliseconds(time.Since(began))
		if !item.Addr.Relay.IsZero() {
			row.Relay = pointer(item.Addr.Relay.String())
		}
		for _, a := range item.Addr.Direct {
			if text := a.String(); !slices.Contains(row.Addrs, text) {
				row.Addrs = append(row.Addrs, text)
			}
		}
		if !item.Signed.IsZero() {
			row.Signed = pointer(item.Signed.UTC().Truncate(time.Second))
		}
	})
	mu.Lock()
	defer mu.Unlock()
	if row.TookMS == nil {
		row.TookMS = milliseconds(time.Since(began))
	}
	if err != nil && !errors.Is(err, pkarr.ErrNotFound) && !errors.Is(err, dns.ErrNotFound) && !errors.Is(err, mdns.ErrSilent) {
		row.Error = pointer(identity.Clean(oneLine(err), 200))
	}
}

// Lookup implements localapi.Backend.
func (d *Daemon) Lookup(ctx context.Context, node string) (localapi.Lookup, error) {
	id, err := lookupID(d.allPeers(), node, d.cfg.Settings.Zone)
	if err != nil {
		return localapi.Lookup{}, err
	}
	return d.finder.lookup(ctx, id), nil
}

// Lookup implements localapi.Backend.
func (o *Offline) Lookup(ctx context.Context, node string) (localapi.Lookup, error) {
	peers, err := config.NewPeers(o.StateDir).Load()
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		return localapi.Lookup{}, err
	}
	id, err := lookupID(peers, node, o.Settings.Zone)
	if err != nil {
		return localapi.Lookup{}, err
	}
	good := o.remembered()
	f := newFinder(&o.Settings, underlayDialer(&o.Settings, slog.New(slog.DiscardHandler)), proxies.New(o.Settings.Proxy), nil, func(id identity.NodeID) (identity.NodeAddr, bool) {
		saved, ok := good.Peers[id]
		return saved.Addr(id), ok
	})
	defer f.close()
	for id, saved := range good.Peers {
		f.history.Set(id, saved.Signed)
	}
	if o.Settings.MDNS {
		f.sources = append(f.sources, source{name: mdns.Source, off: "this node does not run"})
	}
	return f.lookup(ctx, id), nil
}

// lookupID is the node that text names, a peer or any other.
func lookupID(peers []config.Peer, text, zone string) (identity.NodeID, error) {
	at, err := config.FindPeer(peers, text, zone)
	if err == nil {
		return peers[at].ID, nil
	}
	if id, idErr := identity.ParseNodeID(text); idErr == nil {
		return id, nil
	}
	return identity.NodeID{}, localapi.Wrap(localapi.KindNotFound, err)
}
