package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/nodetun/nodetun/endpoint"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/config"
	"github.com/nodetun/nodetun/internal/engine"
	"github.com/nodetun/nodetun/internal/proxies"
	"github.com/nodetun/nodetun/internal/sshkeys"
	"github.com/nodetun/nodetun/internal/wire"
	"github.com/nodetun/nodetun/magicsock"
	"github.com/nodetun/nodetun/magicsock/nodemap"
	"github.com/nodetun/nodetun/relay"
)

// openEndpoint binds the UDP sockets.
func (d *Daemon) openEndpoint(context.Context) (err error) {
	s := &d.cfg.Settings
	socket := socketConfig(s)
	token, to, err := s.Token()
	if err != nil {
		return err
	}
	if token != "" {
		socket.RelayTokens = map[identity.RelayURL]string{to: token}
	}
	socket.Key, socket.Logger = d.key, d.log
	socket.Admit, socket.Paired, socket.Denied = d.admit, d.paired, d.denied
	socket.TunPrefixes = d.prefixes()
	socket.Inside = func(ctx context.Context, send func([]byte) error) bool {
		e := d.admits.Load()
		return e != nil && e.Inside(ctx, send)
	}
	socket.OnPathChange = func(magicsock.PathChange) { d.addressesChanged() }
	socket.OnAddrsChange, socket.OnNetInfo = d.addressesChanged, d.netInfoChanged
	d.endpoint, err = endpoint.New(endpoint.Config{
		ALPNs: []string{wire.ALPN}, SessionALPNs: []string{wire.ALPN}, Welcomes: true,
		IdleTimeout: s.SessionTimeout, ResetSalt: d.salt, KeyLog: d.cfg.KeyLog, Logger: d.log,
		Socket: socket, Resolver: d.finder.resolvers(),
	})
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("UDP port %d is in use (try: nodetun up --port 0)", s.Port)
	}
	if err != nil {
		return err
	}
	d.undo.add(func() error { _ = d.endpoint.Socket().Close(); return nil }) // closed already if it ran
	return nil
}

// relaysOf are the relays that the settings name, or those for everybody.
func relaysOf(s *config.Settings) []identity.RelayURL {
	if s.Relays == nil {
		return relay.Defaults()
	}
	return s.Relays
}

// socketConfig is what the settings say about the UDP sockets.
func socketConfig(s *config.Settings) magicsock.Config {
	cfg := magicsock.Config{
		Relays: relaysOf(s), STUN: s.STUN, NoPortmap: !s.Portmap, Fwmark: s.Fwmark,
		ExcludeLink: func(name string) bool { return name == s.TUN },
	}
	cfg.Bind4, cfg.Bind6 = binds(s)
	cfg.FECUnguarded = s.FEC == "on"
	cfg.Proxy = proxies.New(s.Proxy).For
	switch s.Punch {
	case "gentle":
		cfg.Punch = nodemap.PunchGentle
	case "off":
		cfg.Punch = nodemap.PunchOff
	}
	return cfg
}

// netInfoChanged passes on that this node is seen otherwise from outside.
func (d *Daemon) netInfoChanged() {
	if e := d.admits.Load(); e != nil {
		e.NetInfoChanged()
	}
}

// admit asks the engine, once there is one, whether a node may be answered (S6).
func (d *Daemon) admit(id identity.NodeID) bool {
	e := d.admits.Load()
	return e != nil && (e.Admit(id) || d.guests.admit(id))
}

// paired asks the engine, once there is one, whether a node is a peer.
func (d *Daemon) paired(id identity.NodeID) bool {
	e := d.admits.Load()
	return e != nil && e.Paired(id)
}

// denied asks the engine, once there is one, whether a node is a peer that is refused.
func (d *Daemon) denied(id identity.NodeID) bool {
	e := d.admits.Load()
	return e != nil && e.Denied(id)
}

// onDemand is what the settings say about nodes that are no peers.
func onDemand(s *config.Settings) engine.OnDemand {
	switch s.OnDemand {
	case "any":
		return engine.OnDemandAny
	case "off":
		return engine.OnDemandOff
	default:
		return engine.OnDemandSSH
	}
}

// binds splits the addresses to bind by family. Nothing set means all
// addresses, with the port of the settings; with one address set the family
// that is not named is off.
func binds(s *config.Settings) (v4, v6 netip.AddrPort) {
	if len(s.Bind) == 0 {
		v4 = netip.AddrPortFrom(netip.IPv4Unspecified(), s.Port)
		v6 = netip.AddrPortFrom(netip.IPv6Unspecified(), s.Port)
	}
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

// sshDir holds the keys of this host's ssh server.
const sshDir = "/etc/ssh"

// openEngine makes what carries the packets.
func (d *Daemon) openEngine(context.Context) (err error) {
	name, _ := d.names.NameOf(d.key.NodeID())
	cfg := engine.Config{
		Endpoint: d.endpoint, Link: d.link, Table: d.table, MTU: d.mtu(), OnDemand: onDemand(&d.cfg.Settings), FlowTimeout: d.cfg.Settings.FlowTimeout, NoFEC: d.cfg.Settings.FEC == "off",
		Invites: invited{d}, SSHHostKeys: func() []string { return sshkeys.OfHost(sshDir) }, Version: d.cfg.Version, Name: name, Logger: d.log,
	}
	rand.Read(cfg.Instance[:])
	if d.engine, err = engine.New(cfg); err != nil {
		return err
	}
	d.undo.add(func() error { d.engine.Close(); return nil })
	d.admits.Store(d.engine)
	return nil
}

func (d *Daemon) mtu() int {
	if d.cfg.Settings.MTU != 0 {
		return d.cfg.Settings.MTU
	}
	return engine.DefaultMTU
}
