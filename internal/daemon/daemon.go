package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nodetun/nodetun/dnsmap"
	"github.com/nodetun/nodetun/endpoint"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/config"
	"github.com/nodetun/nodetun/internal/engine"
	"github.com/nodetun/nodetun/internal/localapi"
	"github.com/nodetun/nodetun/internal/wire"
	"github.com/nodetun/nodetun/magicsock"
	"github.com/nodetun/nodetun/routing"
	"github.com/nodetun/nodetun/tun"
)

// Config says what node to run. StateDir and Socket are required.
type Config struct {
	Settings         config.Settings
	StateDir, Socket string
	// Peers are peers for this run, besides those of peers.toml.
	Peers []config.Peer
	// Version is shown and told to peers.
	Version string
	Logger  *slog.Logger
	// Reload reads the settings again, for SIGHUP. Nil: they stay.
	Reload func() (config.Settings, error)
	// Ready is called once the tunnel is up. Nil: nobody is told.
	Ready func(localapi.Status)
}

// Daemon is a running node.
type Daemon struct {
	cfg   Config
	log   *slog.Logger
	began time.Time
	stop  context.CancelFunc

	key      *identity.SecretKey
	store    *store
	files    *config.AddressFile
	pool     netip.Prefix
	selfName string

	endpoint *endpoint.Endpoint
	table    *routing.Table
	names    *dnsmap.Names
	device   *tun.Device
	engine   *engine.Engine
	host     *routing.Host
	server   *dnsmap.Server
	hostDNS  *dnsmap.HostDNS
	listener *net.UnixListener
	// changed wakes the saver of addresses.
	changed chan struct{}

	// mu guards the fields below.
	mu      sync.Mutex
	peers   []config.Peer
	good    config.Addresses
	dns     dnsmap.Report
	dnsFail error
}

// ErrPrivilege says that the process may not make network interfaces.
var ErrPrivilege = errors.New("needs root or CAP_NET_ADMIN (try: sudo nodetun up)")

// Run runs a node until ctx ends, somebody asks it to end, or it breaks. Every
// change of the host is undone before it returns. The error wraps
// ErrPrivilege, localapi.ErrRunning, config.ErrLocked, config.ErrBadFile or the
// errors of the packages that the node is made of.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if !mayConfigureNetwork() {
		return ErrPrivilege
	}
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	unlock, err := config.LockState(cfg.StateDir)
	if err != nil {
		return err
	}
	defer unlock()

	if cfg.Settings.MTU == 0 {
		cfg.Settings.MTU = engine.DefaultMTU
	}
	d := &Daemon{cfg: cfg, log: cfg.Logger, began: time.Now(), changed: make(chan struct{}, 1)}
	ctx, d.stop = context.WithCancel(ctx)
	defer d.stop()
	if d.listener, err = localapi.Listen(cfg.Socket); err != nil {
		return err
	}
	defer os.Remove(cfg.Socket)
	defer d.listener.Close()
	if err := d.build(); err != nil {
		d.release()
		return err
	}
	return d.run(ctx)
}

// build reads the files and makes every part, none of which runs yet.
func (d *Daemon) build() error {
	if err := d.readFiles(); err != nil {
		return err
	}
	if err := dnsmap.Restore(d.statePath()); err != nil {
		d.log.Warn("names of an earlier run were not taken back", "err", err)
	}
	if err := d.buildNode(); err != nil {
		return err
	}
	return d.buildHost()
}

func (d *Daemon) statePath() string { return filepath.Join(d.cfg.StateDir, stateFile) }

// readFiles reads identity, peers and addresses; a first start makes the key.
func (d *Daemon) readFiles() error {
	var err error
	if d.key, err = LoadOrCreateKey(d.cfg.StateDir); err != nil {
		return err
	}
	d.selfName = ownName(d.cfg.Settings.Name)
	d.store = &store{file: config.NewPeers(d.cfg.StateDir), self: d.key.NodeID(), zone: d.cfg.Settings.Zone, reserved: []string{d.selfName}}
	if d.peers, err = d.store.file.Load(); err != nil {
		return err
	}
	d.files = config.NewAddressFile(d.cfg.StateDir)
	d.good, err = d.files.Load()
	return err
}

// ownName is the node's name: as set, else the host's, else none.
func ownName(set string) string {
	name := set
	if name == "" {
		host, _ := os.Hostname()
		name, _, _ = strings.Cut(strings.ToLower(host), ".")
	}
	if dnsmap.ValidPetname(name) != nil {
		return ""
	}
	return name
}

// buildNode makes the side that knows NodeIDs and paths.
func (d *Daemon) buildNode() error {
	s := &d.cfg.Settings
	salt, err := loadSalt(d.cfg.StateDir)
	if err != nil {
		return err
	}
	taken, err := routing.HostPrefixes(s.TUN)
	if err != nil {
		return err
	}
	if d.pool, err = routing.ChoosePool(s.IPv4Pool, taken); err != nil {
		return err
	}
	saved := d.good.IPv4
	if d.good.Pool != d.pool {
		saved = nil
	}
	d.table = routing.NewTable(d.key.NodeID(), d.pool, saved)
	bind4, bind6 := binds(s)
	admitted := func(id identity.NodeID) bool { return d.engine.Admit(id) }
	d.endpoint, err = endpoint.New(endpoint.Config{
		ALPNs: []string{wire.ALPN}, SessionALPNs: []string{wire.ALPN},
		IdleTimeout: s.SessionTimeout, ResetSalt: salt, Logger: d.log,
		Socket: magicsock.Config{
			Key: d.key, Bind4: bind4, Bind6: bind6, Relays: s.Relays,
			Admit: admitted, Paired: admitted,
			ExcludeLink:   func(name string) bool { return name == s.TUN },
			TunPrefixes:   d.prefixes(),
			OnPathChange:  func(magicsock.PathChange) { d.addressesChanged() },
			OnAddrsChange: d.addressesChanged,
			Logger:        d.log,
		},
	})
	return err
}

// binds splits the addresses to bind by family. Nothing set means all
// addresses, with the port of the settings.
func binds(s *config.Settings) (v4, v6 netip.AddrPort) {
	v4 = netip.AddrPortFrom(netip.IPv4Unspecified(), s.Port)
	v6 = netip.AddrPortFrom(netip.IPv6Unspecified(), s.Port)
	for _, b := range s.Bind {
		if b.Port() == 0 {
			b = netip.AddrPortFrom(b.Addr(), s.Port)
		}
		if b.Addr().Is4() {
			v4 = b
		} else {
			v6 = b
		}
	}
	return v4, v6
}

// prefixes are the overlay's.
func (d *Daemon) prefixes() []netip.Prefix {
	list := []netip.Prefix{routing.Prefix6()}
	if d.pool.IsValid() {
		list = append(list, d.pool)
	}
	return list
}

// buildHost makes the side that the programs of this host see.
func (d *Daemon) buildHost() error {
	s := &d.cfg.Settings
	hostname, _ := os.Hostname()
	var err error
	d.names, err = dnsmap.NewNames(dnsmap.NamesConfig{Zone: s.Zone, Self: d.key.NodeID(), SelfName: d.selfName, HostName: strings.ToLower(hostname)})
	if err != nil {
		return err
	}
	if d.device, err = tun.Open(tun.Config{Name: s.TUN, MTU: s.MTU, Logger: d.log}); err != nil {
		return err
	}
	cfg := engine.Config{Endpoint: d.endpoint, Link: d.device, Table: d.table, MTU: s.MTU, Version: d.cfg.Version, Name: d.selfName, Logger: d.log}
	rand.Read(cfg.Instance[:])
	if d.engine, err = engine.New(cfg); err != nil {
		return err
	}
	d.host, err = routing.NewHost(routing.HostConfig{Link: d.device.Name(), Addrs: d.addrs(), Routes: d.prefixes(), MTU: s.MTU, Logger: d.log})
	if err != nil {
		return err
	}
	d.server, err = dnsmap.NewServer(dnsmap.Config{
		Listen: d.resolverAddrs(), Names: d.names, Lookup: d.lookup, Reverse: d.table.Lookup, Prefixes: d.prefixes(), Logger: d.log,
	})
	return err
}

// addrs are this node's overlay addresses as the link gets them.
func (d *Daemon) addrs() []netip.Prefix {
	self := d.table.Self()
	list := []netip.Prefix{netip.PrefixFrom(self.V6, 128)}
	if self.V4.IsValid() {
		list = append(list, netip.PrefixFrom(self.V4, 32))
	}
	return list
}

// resolverAddr is where the resolver listens if it can.
const resolverAddr = "127.0.0.153:53"

func (d *Daemon) resolverAddrs() []string {
	list := []string{resolverAddr}
	for _, p := range d.addrs() {
		list = append(list, netip.AddrPortFrom(p.Addr(), 53).String())
	}
	return list
}

// lookup is the resolver's way to addresses: peers have theirs, any other
// NodeID gets some on demand (S19).
func (d *Daemon) lookup(id identity.NodeID, create bool) (v6, v4 netip.Addr, ok bool) {
	entry, ok := d.table.Entry(id)
	if !ok && create {
		var err error
		entry, err = d.table.AddOnDemand(id, time.Now())
		ok = err == nil
	}
	return entry.V6, entry.V4, ok || routing.OverlayV6(id).IsValid()
}

// release lets go of what build made, when it did not get to the end.
func (d *Daemon) release() {
	if d.device != nil {
		d.device.Close()
	}
	if d.endpoint != nil {
		d.endpoint.Socket().Close()
	}
}

// run starts every part and undoes everything at the end, in this order: host
// settings, engine, endpoint.
func (d *Daemon) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	engineCtx, stopEngine := context.WithCancel(context.WithoutCancel(ctx))
	endpointCtx, stopEndpoint := context.WithCancel(context.WithoutCancel(ctx))
	defer stopEngine()
	defer stopEndpoint()
	up := make(chan struct{})

	g.Go(func() error { return d.endpoint.Run(endpointCtx) })
	g.Go(func() error {
		defer stopEndpoint()
		return d.engine.Run(engineCtx)
	})
	g.Go(func() error {
		defer stopEngine()
		return d.runHost(ctx, up)
	})
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-up:
		}
		d.applyPeers()
		if d.cfg.Ready != nil {
			status, _ := d.Status(ctx)
			d.cfg.Ready(status)
		}
		server := localapi.NewServer(localapi.ServerConfig{Backend: d, Logger: d.log})
		return server.Run(ctx, d.listener)
	})
	g.Go(func() error { return d.saveAddresses(ctx) })
	g.Go(func() error { return d.reloadOnSignal(ctx) })
	err := g.Wait()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// runHost changes the host, keeps it so until ctx ends, and changes it back.
func (d *Daemon) runHost(ctx context.Context, up chan<- struct{}) error {
	if err := d.host.Apply(); err != nil {
		return errors.Join(err, d.host.Undo())
	}
	undo := func() error { return d.host.Undo() }
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.host.Run(ctx) })
	if err := d.setUpNames(ctx, g); err != nil {
		d.log.Warn("names will not resolve", "err", err)
		d.mu.Lock()
		d.dnsFail = err
		d.mu.Unlock()
	}
	close(up)
	err := g.Wait()
	if d.hostDNS != nil {
		err = errors.Join(err, d.hostDNS.Undo())
	}
	return errors.Join(err, undo())
}

// setUpNames starts the resolver and tells the host about it. A host without
// names still has addresses, so its error is no reason to stop.
func (d *Daemon) setUpNames(ctx context.Context, g *errgroup.Group) error {
	s := &d.cfg.Settings
	addr, err := d.server.Listen()
	if err != nil {
		return err
	}
	g.Go(func() error { return d.server.Run(ctx) })
	mode, err := dnsmap.ParseMode(s.DNS)
	if err != nil {
		return err
	}
	host, err := dnsmap.NewHost(dnsmap.HostConfig{
		Mode: mode, Link: d.device.Name(), Zone: s.Zone, Search: s.Search, Prefixes: d.prefixes(), Server: addr,
		StatePath: d.statePath(), OnServers: d.server.SetForward, Logger: d.log,
	})
	if err != nil {
		return err
	}
	report, err := host.Apply(ctx)
	if err != nil {
		return errors.Join(err, host.Undo())
	}
	d.hostDNS = host
	d.mu.Lock()
	d.dns = report
	d.mu.Unlock()
	g.Go(func() error { return host.Run(ctx) })
	return nil
}

// applyPeers gives the present list of peers to table, names and engine. It is
// in force when this returns.
func (d *Daemon) applyPeers() {
	d.mu.Lock()
	defer d.mu.Unlock()
	var list []engine.Peer
	keep := make(map[identity.NodeID]bool)
	for _, p := range append(d.peers[:len(d.peers):len(d.peers)], d.cfg.Peers...) {
		if keep[p.ID] || p.ID == d.key.NodeID() {
			continue
		}
		if _, err := d.table.Add(p.ID); err != nil {
			d.log.Error("peer left out", "peer", p.ID, "err", err)
			continue
		}
		keep[p.ID] = true
		if p.Name != "" {
			if err := d.names.Add(p.Name, p.ID); err != nil {
				d.log.Error("petname left out", "peer", p.ID, "err", err)
			}
		}
		list = append(list, engine.Peer{ID: p.ID, Name: p.Name, Rules: p.Rules, Addr: d.addrOf(p)})
	}
	old := d.engine.Peers()
	d.engine.SetPeers(list)
	for _, p := range old {
		if !keep[p.ID] {
			d.table.Remove(p.ID)
			d.names.Remove(p.ID)
		}
	}
	d.addressesChanged()
}

// addrOf joins what the user said of a peer's address and what was learnt.
func (d *Daemon) addrOf(p config.Peer) identity.NodeAddr {
	addr := identity.NodeAddr{ID: p.ID, Relay: p.Relay, Direct: p.Addrs}
	learnt := d.good.Peers[p.ID]
	addr.Direct = append(addr.Direct[:len(addr.Direct):len(addr.Direct)], learnt.Direct...)
	if addr.Relay.IsZero() {
		addr.Relay = learnt.Relay
	}
	if addr.Relay.IsZero() && len(d.cfg.Settings.Relays) > 0 {
		// Nodes of one configuration meet at its first relay.
		addr.Relay = d.cfg.Settings.Relays[0]
	}
	return addr
}

// reloadOnSignal reads files again at each SIGHUP.
func (d *Daemon) reloadOnSignal(ctx context.Context) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hup:
			if err := d.Reload(ctx); err != nil {
				d.log.Error("not reloaded, all stays as it was", "err", err)
			}
		}
	}
}
