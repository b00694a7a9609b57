package daemon

import (
	"context"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/config"
	"github.com/nodetun/nodetun/internal/engine"
	"github.com/nodetun/nodetun/internal/localapi"
)

// applyPeers brings a list of peers, and those of this run, into force: when it
// returns, removed and denied ones are cut off (S16). One bad entry does not
// spoil the others; status names it. The caller holds d.change.
func (d *Daemon) applyPeers(list []config.Peer) {
	d.mu.Lock()
	old, extra := d.peers, d.extra
	d.mu.Unlock()
	now := time.Now()
	var peers []config.Peer
	var entries []engine.Peer
	var health []localapi.Health
	for _, p := range withExtra(list, extra) {
		if p.ID == d.key.NodeID() {
			health = append(health, localapi.Health{Level: "warn", Text: "this node itself is in its list of peers", Fix: "nodetun forget " + p.ID.String()})
			continue
		}
		if _, err := d.table.Add(p.ID); err != nil {
			health = append(health, localapi.Health{Level: "error", Text: err.Error(), Fix: "nodetun forget " + p.ID.String()})
			continue
		}
		peers = append(peers, p)
		entries = append(entries, engine.Peer{ID: p.ID, Name: p.Name, Rules: p.RulesAt(now), Until: p.Ends(now), Addr: addrOf(p)})
	}
	d.remind(peers)
	d.engine.SetPeers(entries)
	if os.Getenv("GOMEMLIMIT") == "" { // whoever runs the node knows better
		debug.SetMemoryLimit(engine.MemoryLimit(len(entries)))
	}
	for _, p := range old {
		if indexOf(peers, p.ID) < 0 {
			d.table.Remove(p.ID)
		}
	}
	health = append(health, d.applyNames(old, peers)...)

	d.mu.Lock()
	d.peers, d.peerHealth = peers, health
	d.mu.Unlock()
	d.addressesChanged()
	select {
	case d.grantsKick <- struct{}{}:
	default:
	}
}

// grantsCheck is how often the clock is looked at, which may be set.
const grantsCheck = time.Minute

// endGrants takes permissions back when they end.
func (d *Daemon) endGrants(ctx context.Context) error {
	applied := time.Now()
	for {
		wait := grantsCheck
		for _, p := range d.allPeers() {
			if end := p.Ends(applied); !end.IsZero() {
				wait = min(wait, max(time.Until(end), 0))
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.grantsKick:
			applied = time.Now()
		case <-time.After(wait):
			now := time.Now()
			d.change.Lock()
			if peers := d.allPeers(); slices.ContainsFunc(peers, func(p config.Peer) bool { end := p.Ends(applied); return !end.IsZero() && !now.Before(end) }) {
				d.log.Info("permissions have ended")
				d.applyPeers(peers)
			}
			d.change.Unlock()
			applied = now
		}
	}
}

// applyNames replaces the petnames of old by those of peers. All that change
// go before the new ones come, so that two peers may swap theirs.
func (d *Daemon) applyNames(old, peers []config.Peer) (health []localapi.Health) {
	for _, p := range old {
		if i := indexOf(peers, p.ID); i < 0 || peers[i].Name != p.Name {
			d.names.Remove(p.ID)
		}
	}
	for _, p := range peers {
		if p.Name == "" {
			continue
		}
		if err := d.names.Add(p.Name, p.ID); err != nil {
			health = append(health, localapi.Health{Level: "warn", Text: "a peer has no name: " + err.Error(), Fix: "nodetun peer add " + p.ID.String() + " --name NAME"})
		}
	}
	return health
}

// withExtra adds the peers of this run to those of the file. Of a peer that is
// in both, the file's entry counts and the address of this run is added.
func withExtra(list, extra []config.Peer) []config.Peer {
	all := slices.Clone(list)
	for _, p := range extra {
		if i := indexOf(all, p.ID); i >= 0 {
			all[i].Addrs = union(all[i].Addrs, p.Addrs)
		} else {
			all = append(all, p)
		}
	}
	return all
}

// remind tells the socket what is known of peers without asking anybody, so that all of
// them can be greeted at once.
func (d *Daemon) remind(peers []config.Peer) {
	for _, p := range peers {
		for _, source := range d.finder.known {
			if addr, ok := source.Find(p.ID); ok && !addr.IsEmpty() {
				_ = d.endpoint.Socket().AddNodeAddr(addr, source.Name) // what was left out is asked for at the dial
			}
		}
	}
}

// addrOf is what the user said of where a peer is.
func addrOf(p config.Peer) identity.NodeAddr {
	return identity.NodeAddr{ID: p.ID, Relay: p.Relay, Direct: p.Addrs}
}

// union returns a, and what b has beside it.
func union(a, b []netip.AddrPort) []netip.AddrPort {
	all := slices.Clone(a)
	for _, addr := range b {
		if !slices.Contains(all, addr) {
			all = append(all, addr)
		}
	}
	return all
}

func indexOf(peers []config.Peer, id identity.NodeID) int {
	return slices.IndexFunc(peers, func(p config.Peer) bool { return p.ID == id })
}
