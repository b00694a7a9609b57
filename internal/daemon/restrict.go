package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nodetun/nodetun/internal/config"
	"github.com/nodetun/nodetun/internal/localapi"
)

// Forget implements localapi.Backend.
func (d *Daemon) Forget(_ context.Context, peer string) (localapi.PeerEntry, error) {
	return d.restrict(peer, removePeer)
}

// Deny implements localapi.Backend.
func (d *Daemon) Deny(_ context.Context, r localapi.RulesRequest) (localapi.PeerEntry, error) {
	return d.restrict(r.Peer, takeRules(r))
}

// restrict takes rights away. That comes into force in any case: also when the file of
// peers is broken or the disk full, which the error then says.
func (d *Daemon) restrict(peer string, cut peerEdit) (localapi.PeerEntry, error) {
	entry, err := d.edit(peer, func() (config.Peer, error) { return d.store.change(peer, cut) })
	if !errors.Is(err, config.ErrNotSaved) && !errors.Is(err, config.ErrBadFile) {
		return entry, err
	}
	d.change.Lock()
	defer d.change.Unlock()
	p, cutErr := d.cutInMemory(peer, cut)
	if cutErr != nil {
		return entry, errors.Join(cutErr, err)
	}
	what := fmt.Sprintf("what %s may do was changed and could not be saved: %s", p.Label(), oneLine(err))
	d.troubles.set(aboutSaving, what, "mend that, then say it again: the file of peers still says what it said")
	return d.entry(p), fmt.Errorf("in force until the next start or reload: %w", err)
}

// cutInMemory changes one peer in force and leaves the file alone. The caller holds
// d.change.
func (d *Daemon) cutInMemory(peer string, cut peerEdit) (config.Peer, error) {
	id, err := d.findPeer(peer)
	if err != nil {
		return config.Peer{}, err
	}
	list := slices.Clone(d.allPeers())
	at := indexOf(list, id)
	p := list[at]
	remove, err := cut(&p)
	if err != nil {
		return config.Peer{}, err
	}
	list[at] = p
	if remove {
		list = slices.Delete(list, at, at+1)
	}
	d.mu.Lock()
	if i := indexOf(d.extra, id); i >= 0 {
		d.extra = slices.Delete(slices.Clone(d.extra), i, i+1)
	}
	d.mu.Unlock()
	d.applyPeers(list)
	return p, nil
}
