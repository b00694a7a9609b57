package daemon

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"strings"
	"time"

	"github.com/nodetun/nodetun/dnsmap"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/config"
	"github.com/nodetun/nodetun/internal/localapi"
	"github.com/nodetun/nodetun/internal/proxies"
	"github.com/nodetun/nodetun/magicsock"
	"github.com/nodetun/nodetun/routing"
)

// Offline answers from the files of a state directory, for commands beside a
// node that is not running. What only a running node knows is
// localapi.ErrNotRunning.
type Offline struct {
	StateDir string
	Settings config.Settings
	Version  string
}

var _ localapi.Backend = (*Offline)(nil)

// ErrNoKey says that the node was never started.
var ErrNoKey = errors.New("this node has no key yet (try: sudo nodetun up, or nodetun id --create)")

// open reads the identity and returns the store of peers.
func (o *Offline) open() (*store, error) {
	key, err := identity.LoadSecretKey(KeyPath(o.StateDir))
	return o.openWith(key, err)
}

// openNew is open for a node that may not have a key yet: it gets one.
func (o *Offline) openNew() (*store, error) {
	key, err := LoadOrCreateKey(o.StateDir)
	return o.openWith(key, err)
}

func (o *Offline) openWith(key *identity.SecretKey, err error) (*store, error) {
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoKey
	}
	if err != nil {
		return nil, err
	}
	return newStore(o.StateDir, key.NodeID(), &o.Settings), nil
}

// entryOf words what the file says of a peer.
func entryOf(p config.Peer) localapi.PeerEntry {
	e := localapi.PeerEntry{ID: p.ID, Name: p.Name, IPv6: routing.OverlayV6(p.ID).String(), Addrs: []string{}, Rules: p.RulesAt(time.Now()).Strings(), Grants: []localapi.Grant{}}
	for _, g := range p.Grants {
		if time.Now().Before(g.Until) {
			e.Grants = append(e.Grants, localapi.Grant{Rules: g.Rules.Strings(), Until: g.Until})
		}
	}
	for _, addr := range p.Addrs {
		e.Addrs = append(e.Addrs, addr.String())
	}
	if !p.Relay.IsZero() {
		e.Relay = pointer(p.Relay.String())
	}
	return e
}

// entry words a peer with the names and addresses that it will have.
func (o *Offline) entry(p config.Peer) localapi.PeerEntry {
	e := entryOf(p)
	e.FQDN = p.Label() + "." + o.zone()
	if p.Name == "" {
		e.FQDN = p.ID.String() + "." + o.zone()
	}
	e.IPv4 = text(o.remembered().IPv4[p.ID])
	return e
}

// remembered are the addresses of the last run; none if they cannot be read.
func (o *Offline) remembered() config.Addresses {
	good, err := config.NewAddressFile(o.StateDir).Load()
	if err != nil {
		return config.Addresses{}
	}
	return good
}

func (o *Offline) zone() string {
	if o.Settings.Zone == "" {
		return dnsmap.DefaultZone
	}
	return strings.TrimSuffix(o.Settings.Zone, ".")
}

// Self implements localapi.Backend.
func (o *Offline) Self(context.Context) (localapi.Self, error) {
	s, err := o.open()
	if err != nil {
		return localapi.Self{}, err
	}
	good := o.remembered()
	self := localapi.Self{
		ID: s.self, Name: ownName(o.Settings.Name), FQDN: s.self.String() + "." + o.zone(), IPv6: routing.OverlayV6(s.self).String(),
		IPv4: text(good.IPv4[s.self]), Version: o.Version, DirectAddresses: []string{}, Zone: o.zone(),
	}
	if self.Name != "" {
		self.FQDN = self.Name + "." + o.zone()
	}
	return self, nil
}

// Ticket implements localapi.Backend; it holds the addresses of the last run.
func (o *Offline) Ticket(context.Context) (localapi.Ticket, error) {
	s, err := o.open()
	if err != nil {
		return localapi.Ticket{}, err
	}
	good := o.remembered()
	return ticket(good.Self.Addr(s.self)), nil
}

// Peers implements localapi.Backend.
func (o *Offline) Peers(context.Context) ([]localapi.PeerEntry, error) {
	peers, err := config.NewPeers(o.StateDir).Load()
	if err != nil {
		return nil, err
	}
	list := make([]localapi.PeerEntry, 0, len(peers))
	for _, p := range peers {
		list = append(list, o.entry(p))
	}
	return list, nil
}

// Check implements localapi.Backend.
func (o *Offline) Check(_ context.Context, asked, rule string) (localapi.Check, error) {
	peers, err := config.NewPeers(o.StateDir).Load()
	if err != nil {
		return localapi.Check{}, err
	}
	at, err := config.FindPeer(peers, asked, o.Settings.Zone)
	if err != nil {
		return localapi.Check{}, localapi.Wrap(localapi.KindNotFound, err)
	}
	return checkRule(peers[at], rule)
}

// AddPeer implements localapi.Backend.
func (o *Offline) AddPeer(_ context.Context, r localapi.AddRequest) (localapi.AddResult, error) {
	s, err := o.openNew()
	if err != nil {
		return localapi.AddResult{}, err
	}
	p, added, err := s.add(r)
	if err != nil {
		return localapi.AddResult{}, err
	}
	return localapi.AddResult{Peer: o.entry(p), Added: added, Self: s.self}, nil
}

// change runs one edit of the list of peers.
func (o *Offline) change(edit func(*store) (config.Peer, error)) (localapi.PeerEntry, error) {
	s, err := o.open()
	if err != nil {
		return localapi.PeerEntry{}, err
	}
	p, err := edit(s)
	if err != nil {
		return localapi.PeerEntry{}, err
	}
	return o.entry(p), nil
}

// Forget implements localapi.Backend.
func (o *Offline) Forget(_ context.Context, peer string) (localapi.PeerEntry, error) {
	return o.change(func(s *store) (config.Peer, error) { return s.change(peer, removePeer) })
}

// Allow implements localapi.Backend.
func (o *Offline) Allow(_ context.Context, r localapi.RulesRequest) (localapi.PeerEntry, error) {
	return o.change(func(s *store) (config.Peer, error) { return s.allow(r) })
}

// Deny implements localapi.Backend.
func (o *Offline) Deny(_ context.Context, r localapi.RulesRequest) (localapi.PeerEntry, error) {
	return o.change(func(s *store) (config.Peer, error) { return s.change(r.Peer, takeRules(r)) })
}

// Status implements localapi.Backend.
func (o *Offline) Status(context.Context) (localapi.Status, error) {
	return localapi.Status{}, localapi.ErrNotRunning
}

// Whois implements localapi.Backend.
func (o *Offline) Whois(context.Context, string) (localapi.Whois, error) {
	return localapi.Whois{}, localapi.ErrNotRunning
}

// HostKeys implements localapi.Backend.
func (o *Offline) HostKeys(context.Context, string) (localapi.HostKeys, error) {
	return localapi.HostKeys{}, localapi.ErrNotRunning
}

// Ping implements localapi.Backend.
func (o *Offline) Ping(context.Context, localapi.PingRequest) (localapi.Ping, error) {
	return localapi.Ping{}, localapi.ErrNotRunning
}

// Why implements localapi.Backend.
func (o *Offline) Why(context.Context, string) (localapi.Why, error) {
	return localapi.Why{}, localapi.ErrNotRunning
}

// Netcheck implements localapi.Backend, by sockets of its own.
func (o *Offline) Netcheck(ctx context.Context, progress func(string)) (localapi.Netcheck, error) {
	s := o.Settings
	s.Port = 0
	cfg := socketConfig(&s)
	cfg.Key, cfg.Logger = identity.GenerateSecretKey(), slog.New(slog.DiscardHandler)
	socket, err := magicsock.New(cfg)
	if err != nil {
		return localapi.Netcheck{}, err
	}
	run, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- socket.Run(run) }()
	out, err := look(ctx, socket, proxies.New(s.Proxy), progress)
	stop()
	return out, errors.Join(err, <-done)
}

// Invite implements localapi.Backend.
func (o *Offline) Invite(context.Context, localapi.InviteRequest) (localapi.Invite, error) {
	return localapi.Invite{}, localapi.ErrNotRunning
}

// Join implements localapi.Backend.
func (o *Offline) Join(context.Context, localapi.JoinRequest, func(string)) (localapi.JoinResult, error) {
	return localapi.JoinResult{}, localapi.ErrNotRunning
}

// Pair implements localapi.Backend.
func (o *Offline) Pair(context.Context, localapi.PairRequest, func(string), func(localapi.PairQuestion) bool) (localapi.JoinResult, error) {
	return localapi.JoinResult{}, localapi.ErrNotRunning
}

// Reload implements localapi.Backend.
func (o *Offline) Reload(context.Context) error { return localapi.ErrNotRunning }

// Down implements localapi.Backend: what a crashed run left is taken back.
func (o *Offline) Down(context.Context) error {
	return CleanUp(o.StateDir)
}
