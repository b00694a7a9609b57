package daemon

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/config"
	"github.com/nodetun/nodetun/magicsock"
	"github.com/nodetun/nodetun/magicsock/nodemap"
)

// saveDelay gathers changes of addresses before they are written.
const saveDelay = 2 * time.Second

// maxGood is how many addresses of a peer are kept.
const maxGood = 8

// addressesChanged asks the saver, the watch of the ticket and the publisher to look again;
// it never blocks.
func (d *Daemon) addressesChanged() {
	for _, kick := range []chan<- struct{}{d.changed, d.ticketKick, d.finder.kick} {
		select {
		case kick <- struct{}{}:
		default:
		}
	}
}

// saveAddresses writes addresses.json after changes and at the end.
func (d *Daemon) saveAddresses(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			d.writeAddresses()
			return nil
		case <-d.changed:
		}
		select {
		case <-ctx.Done():
		case <-time.After(saveDelay):
			d.writeAddresses()
		}
	}
}

// writeAddresses writes the file if it would differ.
func (d *Daemon) writeAddresses() {
	d.saving.Lock()
	defer d.saving.Unlock()
	d.mu.Lock()
	old := d.good
	known := make(map[identity.NodeID]bool, len(d.peers))
	for _, p := range d.peers {
		known[p.ID] = true
	}
	d.mu.Unlock()

	next := config.Addresses{Pool: d.pool, IPv4: d.table.Saved(), Self: d.selfGood(old.Self), Peers: maps.Clone(old.Peers), Signed: max(old.Signed, d.signed.Load())}
	if next.Peers == nil {
		next.Peers = make(map[identity.NodeID]config.LastGood)
	}
	maps.DeleteFunc(next.Peers, func(id identity.NodeID, _ config.LastGood) bool { return !known[id] })
	for _, info := range d.endpoint.Socket().Remotes() {
		if good, ok := lastGood(info); ok && known[info.ID] {
			next.Peers[info.ID] = good
		}
	}
	for id := range known {
		if good, newest := next.Peers[id], d.finder.history.Newest(id); newest > good.Signed {
			good.Signed = newest
			next.Peers[id] = good
		}
	}
	if reflect.DeepEqual(next, old) {
		return
	}
	if err := d.files.Save(next); err != nil {
		d.log.Error("addresses were not saved", "err", err)
		return
	}
	d.mu.Lock()
	d.good = next
	d.mu.Unlock()
}

// selfGood is where this node may be found; the old answer while offline.
func (d *Daemon) selfGood(old config.LastGood) config.LastGood {
	addr := d.endpoint.NodeAddr()
	if addr.IsEmpty() {
		return old
	}
	return config.LastGood{Direct: addr.Direct, Relay: addr.Relay}
}

// lastGood picks the addresses of a node that have answered, the latest first.
func lastGood(info magicsock.RemoteInfo) (config.LastGood, bool) {
	addrs := slices.Clone(info.Addrs)
	slices.SortStableFunc(addrs, func(a, b nodemap.AddrInfo) int { return b.LastPong.Compare(a.LastPong) })
	var good config.LastGood
	for _, a := range addrs {
		if !a.LastPong.IsZero() && len(good.Direct) < maxGood {
			good.Direct = append(good.Direct, a.Addr)
		}
	}
	if !info.RelayInfo.LastHeard.IsZero() {
		good.Relay = info.RelayInfo.URL
	}
	// To the minute, so that a quiet session does not write the file anew.
	good.Seen = info.LastHeard.UTC().Truncate(time.Minute)
	return good, len(good.Direct) > 0 || !good.Relay.IsZero()
}
