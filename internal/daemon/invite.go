package daemon

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/nodetun/nodetun/endpoint"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/engine"
	"github.com/nodetun/nodetun/internal/invites"
	"github.com/nodetun/nodetun/internal/localapi"
	"github.com/nodetun/nodetun/internal/plaintext"
	"github.com/nodetun/nodetun/internal/rules"
	"github.com/nodetun/nodetun/internal/wire"
)

// invitesFile holds the hashes of the secrets of invites.
const invitesFile = "invites.json"

// openInvites reads the invites of this node.
func (d *Daemon) openInvites(context.Context) (err error) {
	path := filepath.Join(d.cfg.StateDir, invitesFile)
	if d.invites, err = invites.Open(path); err != nil {
		d.troubles.set(aboutInvites, oneLine(setAside(path, err)), "invites that were open have ended: make new ones")
		if d.invites, err = invites.Open(path); err != nil {
			return err
		}
	}
	open := func(id identity.NodeID) bool { return d.invites.Answering(time.Now()) && !d.invites.Barred(id) }
	d.guests = newGuests(open, func(id identity.NodeID) {
		if e := d.admits.Load(); e != nil && !e.Admit(id) {
			d.endpoint.Socket().Forget(id)
		}
	})
	d.undo.add(func() error { d.guests.close(); return nil })
	return nil
}

// defaultInvite is how long an invite lasts.
const defaultInvite = time.Hour

// Invite implements localapi.Backend.
func (d *Daemon) Invite(ctx context.Context, r localapi.InviteRequest) (localapi.Invite, error) {
	allow, err := rulesOf(r.Allow)
	if err != nil {
		return localapi.Invite{}, err
	}
	d.change.Lock()
	err = d.store.nameIsFree(r.Name)
	d.change.Unlock()
	if err != nil {
		return localapi.Invite{}, err
	}
	lasts := defaultInvite
	if r.ForS != 0 {
		lasts = time.Duration(min(max(r.ForS, 0), int64(365*24*time.Hour/time.Second))) * time.Second
	}
	d.awaitAddress(ctx)
	addr := d.endpoint.NodeAddr()
	if addr.IsEmpty() {
		return localapi.Invite{}, localapi.Wrap(localapi.KindConflict, errors.New("this node has no address and no relay: nobody could reach it (see: nodetun status)"))
	}
	secret, entry, err := d.invites.Add(r.Name, allow.Strings(), lasts, time.Now())
	if err != nil {
		return localapi.Invite{}, localapi.Wrap(localapi.KindConflict, err)
	}
	return localapi.Invite{
		Invite: identity.FormatInvite(identity.Invite{Addr: addr, Secret: secret}),
		ID:     d.key.NodeID(), Until: entry.Until.Truncate(time.Second), Rules: allow.Strings(),
	}, nil
}

// rulesOf reads rules for a new peer, the default for none (S15).
func rulesOf(list []string) (rules.Rules, error) {
	if list == nil {
		return rules.Default(), nil
	}
	r, err := rules.Parse(list)
	if err == nil && r.Empty() {
		err = errors.New("--allow names no rule")
	}
	if err != nil {
		return r, localapi.Wrap(localapi.KindBadRequest, err)
	}
	return r, nil
}

// invited is who asks this node to become its peer: it implements engine.Invites.
type invited struct{ d *Daemon }

func (i invited) Invited(id identity.NodeID) bool { return i.d.guests.admit(id) }

// Join takes the node that shows the secret of an invite.
func (i invited) Join(id identity.NodeID, join wire.Join) wire.Joined {
	d := i.d
	entry, err := d.invites.Use(id, join.Secret, time.Now())
	if err == nil {
		err = d.welcome(id, entry, join.Name)
	}
	if err != nil {
		if !errors.Is(err, invites.ErrBusy) { // of the others there is one a second at the most
			d.log.Warn("a node was not let in by an invite", "node", id, "err", oneLine(err))
		}
		return wire.Joined{Reason: reasonOf(err)}
	}
	d.log.Info("a node joined by an invite", "node", id, "rules", entry.Allow)
	return wire.Joined{OK: true, Name: ownName(d.cfg.Settings.Name)}
}

// reasonOf is what the other side is told.
func reasonOf(err error) string {
	for _, known := range []error{invites.ErrWrong, invites.ErrUsed, invites.ErrExpired, invites.ErrBusy, invites.ErrEnded} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return "it could not save that: its owner finds the reason in the log"
}

// welcome makes a node a peer, by the name of the invite or the one that it offers.
func (d *Daemon) welcome(id identity.NodeID, entry invites.Invite, offered string) error {
	d.change.Lock()
	defer d.change.Unlock()
	name := entry.Name
	if name == "" || d.store.nameIsFree(name) != nil {
		name = d.store.offered(offered)
	}
	if _, _, err := d.store.add(localapi.AddRequest{Peer: id.String(), Name: name, Allow: entry.Allow}); err != nil {
		return err
	}
	return d.reloadPeers()
}

// joinTime bounds one use of an invite.
const joinTime = time.Minute

// Join implements localapi.Backend.
func (d *Daemon) Join(ctx context.Context, r localapi.JoinRequest, progress func(string)) (localapi.JoinResult, error) {
	if progress == nil {
		progress = func(string) {}
	}
	invite, err := identity.ParseInvite(plaintext.Trim(r.Invite))
	if err != nil {
		if errors.Is(err, identity.ErrBadInvite) {
			err = fmt.Errorf("%w (make one on the other machine: sudo nodetun invite)", err)
		}
		return localapi.JoinResult{}, localapi.Wrap(localapi.KindBadRequest, err)
	}
	allow, err := rulesOf(r.Allow)
	if err != nil {
		return localapi.JoinResult{}, err
	}
	if invite.Addr.ID == d.key.NodeID() {
		return localapi.JoinResult{}, localapi.Wrap(localapi.KindBadRequest, errors.New("that invite is this node's own: use it on the other machine"))
	}
	d.change.Lock()
	err = d.store.nameIsFree(r.Name)
	d.change.Unlock()
	if err != nil {
		return localapi.JoinResult{}, err
	}
	defer d.guests.visit(invite.Addr.ID)() // until it is a peer
	answer, err := d.showInvite(ctx, invite, progress)
	if err != nil {
		return localapi.JoinResult{}, err
	}
	name := r.Name
	d.change.Lock()
	if name == "" {
		name = d.store.offered(answer.Name)
	}
	d.change.Unlock()
	result, err := d.AddPeer(ctx, localapi.AddRequest{Peer: identity.FormatTicket(invite.Addr), Name: name, Allow: allow.Strings()})
	if err != nil {
		return localapi.JoinResult{}, err
	}
	progress("added")
	return localapi.JoinResult{Peer: result.Peer, Added: result.Added}, nil
}

// showInvite dials who made the invite and shows the secret.
func (d *Daemon) showInvite(ctx context.Context, invite identity.Invite, progress func(string)) (wire.Joined, error) {
	id := invite.Addr.ID
	ctx, cancel := context.WithTimeout(ctx, joinTime)
	defer cancel()
	where := "by discovery"
	if !invite.Addr.Relay.IsZero() {
		where = "by its relay " + invite.Addr.Relay.String() + " and directly"
	} else if len(invite.Addr.Direct) > 0 {
		where = "directly"
	}
	progress("dialling " + id.Short() + " " + where)
	answer, err := d.engine.Join(ctx, invite.Addr, wire.Join{Secret: invite.Secret[:], Name: ownName(d.cfg.Settings.Name)}, func(c *endpoint.Connection) {
		step := "connected"
		if path := c.PathText(); path != "none" { // it is not known at once
			step += ", " + path
		}
		progress(step)
	})
	switch {
	case errors.Is(err, engine.ErrNotTold):
		return answer, localapi.Wrap(localapi.KindDenied, err)
	case err != nil:
		return answer, localapi.Wrap(localapi.KindUnreachable, fmt.Errorf("no answer from %s: that machine is offline, or the invite was used or has expired, or this network lets nothing through (%w)", id.Short(), err))
	case !answer.OK:
		return answer, localapi.Wrap(localapi.KindDenied, fmt.Errorf("refused: %s (make another one there: sudo nodetun invite)", identity.Clean(answer.Reason, 160)))
	}
	return answer, nil
}
