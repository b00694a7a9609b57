package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/config"
	"github.com/nodetun/nodetun/internal/engine"
	"github.com/nodetun/nodetun/internal/localapi"
	"github.com/nodetun/nodetun/internal/rules"
)

var _ localapi.Backend = (*Daemon)(nil)

// Ticket implements localapi.Backend.
func (d *Daemon) Ticket(context.Context) (localapi.Ticket, error) {
	return ticket(d.endpoint.NodeAddr()), nil
}

// ticket words an address as a ticket.
func ticket(addr identity.NodeAddr) localapi.Ticket {
	t := localapi.Ticket{Ticket: identity.FormatTicket(addr), ID: addr.ID, DirectAddresses: []string{}}
	if !addr.Relay.IsZero() {
		t.Relay = pointer(addr.Relay.String())
	}
	for _, direct := range addr.Direct {
		t.DirectAddresses = append(t.DirectAddresses, direct.String())
	}
	return t
}

// Whois implements localapi.Backend.
func (d *Daemon) Whois(_ context.Context, asked string) (localapi.Whois, error) {
	id, err := d.find(asked)
	if err != nil {
		return localapi.Whois{}, err
	}
	w := localapi.Whois{ID: id, FQDN: d.names.FQDN(id), Kind: "other"}
	w.Name, _ = d.names.NameOf(id)
	if v6, v4, ok := d.addressesOf(id, true); ok {
		w.IPv6, w.IPv4 = v6.String(), text(v4)
	}
	switch {
	case id == d.key.NodeID():
		w.Kind = "self"
	case d.engine.Paired(id), d.engine.Denied(id):
		w.Kind = "peer"
	}
	return w, nil
}

// HostKeys implements localapi.Backend: for names of the zone alone (S23).
func (d *Daemon) HostKeys(ctx context.Context, name string) (localapi.HostKeys, error) {
	id, ok := d.names.Lookup(name)
	if !ok || id == d.key.NodeID() {
		return localapi.HostKeys{}, localapi.Wrap(localapi.KindNotFound, fmt.Errorf("%q names no other node", identity.Clean(name, 80)))
	}
	keys := d.engine.HostKeys(ctx, id)
	if keys == nil {
		keys = []string{}
	}
	return localapi.HostKeys{ID: id, Keys: keys}, nil
}

// find turns an overlay address, a name or a NodeID into a node.
func (d *Daemon) find(asked string) (identity.NodeID, error) {
	if addr, err := netip.ParseAddr(asked); err == nil {
		if id, ok := d.table.Lookup(addr); ok {
			return id, nil
		}
		return identity.NodeID{}, localapi.Wrap(localapi.KindNotFound, fmt.Errorf("no node has the address %s", addr))
	}
	if id, ok := d.names.IDOf(asked); ok {
		return id, nil
	}
	if id, err := identity.ParseNodeID(asked); err == nil {
		return id, nil
	}
	return d.findPeer(asked)
}

// allPeers are the peers in force.
func (d *Daemon) allPeers() []config.Peer {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.peers
}

// findPeer turns what a user calls a peer into its NodeID.
func (d *Daemon) findPeer(asked string) (identity.NodeID, error) {
	peers := d.allPeers()
	at, err := config.FindPeer(peers, asked, d.cfg.Settings.Zone)
	if err != nil {
		return identity.NodeID{}, localapi.Wrap(localapi.KindNotFound, err)
	}
	return peers[at].ID, nil
}

// Check implements localapi.Backend.
func (d *Daemon) Check(_ context.Context, asked, rule string) (localapi.Check, error) {
	id, err := d.findPeer(asked)
	if err != nil {
		return localapi.Check{}, err
	}
	return checkRule(d.entries()[id], rule)
}

// checkRule says whether a peer may reach what the rule names.
func checkRule(p config.Peer, asked string) (localapi.Check, error) {
	wanted, err := rules.Parse([]string{asked})
	if err != nil || len(wanted.Strings()) != 1 {
		return localapi.Check{}, localapi.Wrap(localapi.KindBadRequest, fmt.Errorf("%q is not one rule (such as tcp/22, udp/60000-61000, icmp, all)", identity.Clean(asked, 40)))
	}
	check := localapi.Check{Peer: p.Label(), ID: p.ID, Asked: wanted.String()}
	if r := p.RulesAt(time.Now()); r.Covers(wanted) {
		check.Allowed, check.Rule = true, r.Which(wanted).String()
	}
	for _, g := range p.Grants {
		if check.Allowed && !p.Rules.Covers(wanted) && g.Rules.Covers(wanted) && (check.Until == nil || g.Until.After(*check.Until)) {
			check.Until = pointer(g.Until)
		}
	}
	return check, nil
}

// maxPing bounds how long one ping may take.
const maxPing = time.Minute

// Ping implements localapi.Backend.
func (d *Daemon) Ping(ctx context.Context, r localapi.PingRequest) (localapi.Ping, error) {
	id, err := d.findPeer(r.Peer)
	if err != nil {
		return localapi.Ping{}, err
	}
	timeout := time.Duration(r.TimeoutMS) * time.Millisecond
	if timeout <= 0 || timeout > maxPing {
		timeout = maxPing
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	result, err := d.engine.Ping(ctx, id)
	if err != nil {
		return localapi.Ping{}, localapi.Wrap(d.pingKind(id), fmt.Errorf("%s: %w", d.label(id), err))
	}
	return localapi.Ping{
		ID: id, Peer: d.label(id), RTTms: *milliseconds(result.RTT), Path: result.Path, Endpoint: result.Endpoint,
	}, nil
}

// pingKind says whether a peer that could not be pinged refused us.
func (d *Daemon) pingKind(id identity.NodeID) localapi.Kind {
	for _, state := range d.engine.Peers() {
		if state.ID == id && state.State == engine.StateRefused {
			return localapi.KindDenied
		}
	}
	return localapi.KindUnreachable
}

// Peers implements localapi.Backend.
func (d *Daemon) Peers(context.Context) ([]localapi.PeerEntry, error) {
	peers := d.allPeers()
	list := make([]localapi.PeerEntry, 0, len(peers))
	for _, p := range peers {
		list = append(list, d.entry(p))
	}
	return list, nil
}

// entry words one peer.
func (d *Daemon) entry(p config.Peer) localapi.PeerEntry {
	e := entryOf(p)
	e.FQDN = d.names.FQDN(p.ID)
	if addrs, ok := d.table.Entry(p.ID); ok {
		e.IPv6, e.IPv4 = addrs.V6.String(), text(addrs.V4)
	}
	return e
}

// AddPeer implements localapi.Backend.
func (d *Daemon) AddPeer(_ context.Context, r localapi.AddRequest) (localapi.AddResult, error) {
	d.change.Lock()
	defer d.change.Unlock()
	d.store.filter.Own = d.store.filter.Own[:0]
	for _, own := range d.endpoint.Socket().DirectAddrs() {
		d.store.filter.Own = append(d.store.filter.Own, own.Addr)
	}
	p, added, err := d.store.add(r)
	if err != nil {
		return localapi.AddResult{}, err
	}
	if err := d.reloadPeers(); err != nil {
		return localapi.AddResult{}, err
	}
	return localapi.AddResult{Peer: d.entry(p), Added: added, Self: d.key.NodeID()}, nil
}

// Allow implements localapi.Backend.
func (d *Daemon) Allow(_ context.Context, r localapi.RulesRequest) (localapi.PeerEntry, error) {
	return d.edit(r.Peer, func() (config.Peer, error) { return d.store.allow(r) })
}

// edit changes one entry and brings it into force.
func (d *Daemon) edit(peer string, change func() (config.Peer, error)) (localapi.PeerEntry, error) {
	d.change.Lock()
	defer d.change.Unlock()
	if err := d.adopt(peer); err != nil {
		return localapi.PeerEntry{}, err
	}
	p, err := change()
	if err != nil {
		return localapi.PeerEntry{}, err
	}
	entry := d.entry(p) // with the addresses that forget takes away
	return entry, d.reloadPeers()
}

// adopt moves a peer of this run into peers.toml, where it can be changed.
func (d *Daemon) adopt(peer string) error {
	id, err := d.findPeer(peer)
	if errors.Is(err, config.ErrNoPeer) {
		return nil // perhaps one of the file that is not in force
	}
	if err != nil {
		return err
	}
	d.mu.Lock()
	extra := d.extra
	d.mu.Unlock()
	at := indexOf(extra, id)
	if at < 0 {
		return nil
	}
	_, err = d.store.file.Edit(func(list []config.Peer) ([]config.Peer, error) {
		return withExtra(list, extra[at:at+1]), nil
	})
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.extra = slices.Delete(slices.Clone(extra), at, at+1)
	return nil
}

// reloadPeers reads peers.toml and brings it into force. The caller holds
// d.change.
func (d *Daemon) reloadPeers() error {
	peers, err := d.store.file.Load()
	if err != nil {
		return err
	}
	d.applyPeers(peers)
	d.troubles.clear(aboutSaving)
	return nil
}

// Reload implements localapi.Backend: peers and the log level are read again;
// all other settings take a new start.
func (d *Daemon) Reload(context.Context) error {
	d.resolver.again()
	err := d.reload()
	if err != nil {
		d.troubles.set(aboutReload, "the last reload failed, all stays as it was: "+oneLine(err), "mend the file, then reload again (kill -HUP)")
	} else {
		d.troubles.clear(aboutReload)
	}
	return err
}

func (d *Daemon) reload() error {
	settings := d.cfg.Settings
	if d.cfg.Reload != nil {
		var err error
		if settings, err = d.cfg.Reload(); err != nil {
			return err
		}
	}
	d.change.Lock()
	defer d.change.Unlock()
	if err := d.reloadPeers(); err != nil {
		return err
	}
	if d.cfg.Level != nil {
		d.cfg.Level.Set(settings.LogLevel)
	}
	d.log.Info("peers and log level were read again; other settings take a new start")
	return nil
}

// Down implements localapi.Backend.
func (d *Daemon) Down(context.Context) error {
	d.stop()
	return nil
}
