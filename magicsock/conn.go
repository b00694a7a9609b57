package magicsock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/netmon"
	"github.com/nodetun/nodetun/internal/proxies"
	"github.com/nodetun/nodetun/magicsock/nodemap"
	"github.com/nodetun/nodetun/magicsock/relayactor"
	"github.com/nodetun/nodetun/magicsock/udpconn"
)

// Errors of AddNodeAddr.
var (
	// ErrSelf says that the address is that of this very node.
	ErrSelf = nodemap.ErrSelf
	// ErrNoAddresses says that none of the given addresses is usable.
	ErrNoAddresses = nodemap.ErrNoAddresses
)

// RemoteInfo is what is known about the paths to a node.
type RemoteInfo = nodemap.RemoteInfo

// PathChange tells of a node whose packets take another path from now on.
type PathChange struct {
	Node   identity.NodeID
	Before nodemap.ConnType
	After  nodemap.ConnType
	// Route is the new path.
	Route  nodemap.Route
	Reason nodemap.Reason
}

// Config is what New takes. Key is needed, all else may be zero.
type Config struct {
	// Key is the identity of this node.
	Key *identity.SecretKey
	// Bind4 and Bind6 are the UDP addresses; zero means all addresses and any
	// port, or nothing of that family when the other one names an address. If
	// only one names a port the other takes the same. A port that is taken is an
	// error.
	Bind4, Bind6 netip.AddrPort
	// Relays are the relays of this configuration; the first is home until it is
	// known which one is nearest. Empty means that there is no relay of our own.
	Relays []identity.RelayURL
	// RelayTokens are shown to those of Relays that want one, each to its own.
	RelayTokens map[identity.RelayURL]string
	// Admit is asked with the sender's key before anything is computed or kept
	// for it (S6). Nil admits everybody, with the limits for strangers.
	Admit func(identity.NodeID) bool
	// Paired says that a node is a peer for good. It is called under a lock:
	// it must not call back into this package. Nil: no node is.
	Paired func(identity.NodeID) bool
	// Denied says that a node is admitted only to be told that it is not welcome: it gets
	// a pong, and a handshake now and then (S6). Called as Paired is; nil: no node is.
	Denied func(identity.NodeID) bool
	// DNS finds the addresses of relays and STUN servers; nil: as package net does.
	DNS *net.Resolver
	// Fwmark is the firewall mark of every underlay packet; 0 is none.
	Fwmark uint32
	// ExcludeLink names interfaces whose addresses are not offered to others
	// and whose changes do not matter: our own TUN. Nil: none. The inside of
	// containers does not count either.
	ExcludeLink func(ifname string) bool
	// TunPrefixes are routed into a TUN of ours: no underlay address lies there.
	TunPrefixes []netip.Prefix
	// Inside reports whether packets that send sends come out of that TUN, because the
	// link that they leave by is a tunnel over ours. Nil: none does.
	Inside func(ctx context.Context, send func([]byte) error) bool
	// STUN are servers, "host:port", that tell how this node is seen from
	// outside, besides the relays, which are asked too.
	STUN []string
	// Punch says how hard to try to get through NATs.
	Punch nodemap.Punch
	// Proxy names the proxy for a URL, see relayclient.Config. Nil: that of the
	// environment, and none above an Underlay.
	Proxy func(*url.URL) *url.URL
	// FECUnguarded hides all loss from QUIC that does not come with a long delay (see
	// Conn.Code), also where it comes with our own rate.
	FECUnguarded bool
	// NoPortmap asks no router for a port.
	NoPortmap bool
	// InsecureRelayTLS accepts any certificate of a relay. For tests.
	InsecureRelayTLS bool
	// OnPathChange is told of each change of path. Nil: nobody is.
	OnPathChange func(PathChange)
	// OnAddrsChange is told when the direct addresses or the home relay
	// changed. Nil: nobody is.
	OnAddrsChange func()
	// OnNetInfo is told when NetInfo changed. Nil: nobody is.
	OnNetInfo func()
	// OnRevived is told of a node that is heard again after an outage, or whose path has
	// become another one, so that connections that this side dialled can begin to measure
	// it anew. It must return at once. Nil: nobody is.
	OnRevived func(identity.NodeID)
	// Discover is asked to find addresses of a node of which none answers.
	// Nil: nobody is.
	Discover func(identity.NodeID)
	// Underlay is the network below; nil is that of the host.
	Underlay *Underlay
	// Logger gets what is worth knowing. Nil discards.
	Logger *slog.Logger
}

// Conn is the socket. Make it with New.
type Conn struct {
	cfg  Config
	self identity.NodeID
	log  *slog.Logger

	under   *Underlay
	socks   sockets
	direct  Socket // read by ReadBatch itself
	other   Socket // read by a goroutine; nil if there is one family only
	relays  *relayactor.Actor
	monitor Monitor
	// write sends by UDP; tests put a worse network in its place.
	write func(b []byte, seg int, ecn uint8, to netip.AddrPort) error

	pc    *PacketConn
	inbox *inbox
	out   *sender
	disco *discoIO
	paths *paths
	// survey looks at the network from outside, punch gets through hard NATs.
	survey *survey
	punch  *puncher
	addrs  *addrBook
	// answers knows from where packets have to leave.
	answers *answers
	tunnels *tunnels
	stats   counters

	remembering atomic.Int32 // codings that keep packets for repairs

	// networkKick holds one: NetworkChanged was called, or a clock was late.
	networkKick chan netmon.Event

	closeOnce sync.Once
	closed    chan struct{}
}

// New binds the sockets and starts nothing. Run makes it work; a Conn that is
// never run is closed with Close.
func New(cfg Config) (*Conn, error) {
	if cfg.Key == nil {
		return nil, errors.New("magicsock: no key")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Relays = slices.Clone(cfg.Relays)
	cfg.TunPrefixes = slices.Clone(cfg.TunPrefixes)

	under := cfg.Underlay
	if under == nil {
		var err error
		if under, err = systemUnderlay(cfg.ExcludeLink, cfg.Fwmark, cfg.Logger); err != nil {
			return nil, err
		}
	}
	if cfg.Proxy == nil && cfg.Underlay == nil {
		cfg.Proxy = proxies.New("").For
	}
	var c *Conn
	socks, err := under.Open(udpconn.Config{
		Bind4: cfg.Bind4, Bind6: cfg.Bind6, Mark: cfg.Fwmark, Logger: cfg.Logger,
		Rebound: func() { c.addrs.look(partLocal) },
	})
	if err != nil {
		under.Monitor.Close()
		return nil, err
	}
	c = &Conn{
		cfg: cfg, self: cfg.Key.NodeID(), log: cfg.Logger,
		under: under, socks: socks, monitor: under.Monitor,
		closed: make(chan struct{}), networkKick: make(chan netmon.Event, 1),
	}
	c.direct = socks[0]
	if len(socks) > 1 {
		c.other = socks[1]
	}
	c.write = c.writeSocket
	c.inbox = newInbox()
	c.pc = newPacketConn(c)
	c.out = newSender(c.writePayload)
	c.disco = newDiscoIO(c)
	c.addrs = newAddrBook(c)
	c.tunnels = newTunnels(c)
	c.answers = &answers{c: c, seen: make(map[netip.AddrPort]udpconn.Local)}
	c.paths = newPaths(nodemap.New(nodemap.Config{
		Self: c.self, Peer: cfg.Paired, Denied: cfg.Denied, Open: cfg.Admit == nil, LoopbackOK: c.addrs.loopbackOK(), Punch: cfg.Punch, Detour: c.tunnels.detour,
	}), cfg.TunPrefixes)
	c.relays = relayactor.New(relayactor.Config{
		Key: cfg.Key, Logger: cfg.Logger,
		Deliver: c.deliverRelay, Admit: c.admit, Changed: c.relaysChanged, LinkChanged: c.relayLink,
		Control:    udpconn.MarkControl(cfg.Fwmark, cfg.Logger),
		Configured: cfg.Relays, Tokens: cfg.RelayTokens, TunPrefixes: cfg.TunPrefixes, InsecureTLS: cfg.InsecureRelayTLS,
		DNS: cfg.DNS, Dial: under.DialTCP, Proxy: cfg.Proxy,
	})
	c.relays.Prefer(cfg.Relays)
	c.punch = newPuncher(c)
	c.survey = newSurvey(c)
	c.addrs.look(partLocal | partRelays)
	c.addrs.update()
	return c, nil
}

// Run carries packets until ctx ends, then closes the sockets and returns when
// all that it started is gone.
func (c *Conn) Run(ctx context.Context) error {
	parent := ctx
	g, ctx := errgroup.WithContext(ctx)
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	g.Go(func() error { return c.relays.Run(ctx) })
	g.Go(func() error { return c.monitor.Run(ctx) })
	g.Go(func() error { c.disco.run(ctx); return nil })
	g.Go(func() error { c.out.run(ctx); return nil })
	g.Go(func() error { c.runClock(ctx); return nil })
	g.Go(func() error { c.watch(ctx); return nil })
	g.Go(func() error { c.survey.run(ctx); return nil })
	g.Go(func() error { c.punch.run(ctx); return nil })
	g.Go(func() error { c.tunnels.run(ctx); return nil })
	if c.survey.mapper != nil {
		g.Go(func() error { return c.survey.mapper.Run(ctx) })
	}
	if c.other != nil {
		g.Go(func() error { c.readOther(); return nil })
	}
	if err := g.Wait(); err != nil && parent.Err() == nil {
		return fmt.Errorf("magicsock: %w", err)
	}
	return nil
}

// Close closes the sockets for good. Run does it by itself.
func (c *Conn) Close() error {
	var err error
	c.closeOnce.Do(func() {
		close(c.closed)
		err = errors.Join(c.socks.close(), c.monitor.Close())
	})
	return err
}

// PacketConn is the face towards QUIC; always the same value.
func (c *Conn) PacketConn() *PacketConn { return c.pc }

// MappedAddr is the address under which QUIC reaches the node: a fake one that
// stays the same for the life of the node's entry.
func (c *Conn) MappedAddr(id identity.NodeID) *net.UDPAddr { return c.paths.mappedAddr(id) }

// NodeOf is the inverse of MappedAddr.
func (c *Conn) NodeOf(addr net.Addr) (identity.NodeID, bool) {
	udp, ok := addr.(*net.UDPAddr)
	if !ok {
		return identity.NodeID{}, false
	}
	return c.paths.nodeOf(udp.AddrPort())
}

// AddNodeAddr adds what is known about a node's whereabouts; source says from
// where. It returns ErrSelf or ErrNoAddresses where that is so.
func (c *Conn) AddNodeAddr(addr identity.NodeAddr, source string) error {
	var err error
	addr.Direct = c.withLinks(addr.Direct)
	c.perform(c.paths.do(func(m *nodemap.Map) []nodemap.Action {
		var acts []nodemap.Action
		acts, err = m.Add(time.Now(), addr, nodemap.Source(source))
		return acts
	}))
	if err == nil {
		c.disco.know(addr.ID)
	}
	return err
}

// withLinks puts the numbers of links in the place of their names, as packets have them,
// and leaves out addresses of links that are not there.
func (c *Conn) withLinks(addrs []netip.AddrPort) []netip.AddrPort {
	var list []netip.AddrPort
	for _, a := range addrs {
		if zone := a.Addr().Zone(); zone != "" && !isNumber(zone) {
			link, err := net.InterfaceByName(zone)
			if err != nil {
				c.log.Debug("an address of a link that is not there", "addr", a, "err", err)
				continue
			}
			a = netip.AddrPortFrom(a.Addr().WithZone(strconv.Itoa(link.Index)), a.Port())
		}
		list = append(list, a)
	}
	return list
}

func isNumber(s string) bool { _, err := strconv.Atoi(s); return err == nil }

// MeasureAnew has QUIC forget what it knows of the path to a node (internal/outage), though there
// was no outage.
func (c *Conn) MeasureAnew(id identity.NodeID) {
	c.paths.turn(id)
	if c.cfg.OnRevived != nil {
		c.cfg.OnRevived(id)
	}
}

// Forget removes all that is known about a node.
func (c *Conn) Forget(id identity.NodeID) {
	c.paths.forget(id)
	c.disco.forget(id)
}

// Established says that the QUIC handshake with the node is complete: it is no
// stranger any more (S6).
func (c *Conn) Established(id identity.NodeID) {
	c.disco.know(id)
	c.perform(c.paths.do(func(m *nodemap.Map) []nodemap.Action { return m.Established(time.Now(), id) }))
}

// Ping sends a ping to every known address of the node now.
func (c *Conn) Ping(id identity.NodeID) {
	c.perform(c.paths.do(func(m *nodemap.Map) []nodemap.Action { return m.Ping(time.Now(), id) }))
}

// Remote tells what is known about a node.
func (c *Conn) Remote(id identity.NodeID) (RemoteInfo, bool) {
	c.paths.mu.Lock()
	defer c.paths.mu.Unlock()
	return c.paths.nodes.Remote(time.Now(), id)
}

// Remotes tells what is known about all nodes.
func (c *Conn) Remotes() []RemoteInfo {
	c.paths.mu.Lock()
	defer c.paths.mu.Unlock()
	return c.paths.nodes.Remotes(time.Now())
}

// SocketTrouble is one of the UDP sockets that a node asked for and does not have
// now. It is tried again by itself.
type SocketTrouble struct {
	Addr netip.AddrPort
	Err  error
}

// SocketTroubles lists the sockets that are missing now.
func (c *Conn) SocketTroubles() []SocketTrouble {
	var list []SocketTrouble
	for _, s := range c.socks {
		if err := s.Unbound(); err != nil {
			list = append(list, SocketTrouble{Addr: s.LocalAddr(), Err: err})
		}
	}
	return list
}

// LocalAddrs are the bound addresses; zero for a family that is missing.
func (c *Conn) LocalAddrs() (v4, v6 netip.AddrPort) {
	for _, s := range c.socks {
		if s.Is6() {
			v6 = s.LocalAddr()
		} else {
			v4 = s.LocalAddr()
		}
	}
	return v4, v6
}

// SetPeerFeatures tells what a node said about itself over its authenticated
// connection.
func (c *Conn) SetPeerFeatures(id identity.NodeID, f nodemap.Features) {
	c.perform(c.paths.do(func(m *nodemap.Map) []nodemap.Action { return m.SetFeatures(time.Now(), id, f) }))
}

// SetPeerNAT tells what a node said about its NAT.
func (c *Conn) SetPeerNAT(id identity.NodeID, nat nodemap.NAT) {
	c.perform(c.paths.do(func(m *nodemap.Map) []nodemap.Action { m.SetPeerNAT(id, nat); return nil }))
}

// HomeRelay is the relay through which others reach this node; zero for none.
func (c *Conn) HomeRelay() identity.RelayURL { return c.relays.Home() }

// RelayStatus tells the state of each relay connection.
func (c *Conn) RelayStatus() []relayactor.Status { return c.relays.Status() }

// relaysChanged is called by the relay actor: another home, or the state of a
// link.
func (c *Conn) relaysChanged() { c.addrs.look(partRelays) }

// relayLink is called by the relay actor when a link came up or broke.
func (c *Conn) relayLink(url identity.RelayURL, up bool) {
	c.perform(c.paths.do(func(m *nodemap.Map) []nodemap.Action { return m.RelayState(time.Now(), url, up) }))
}

// NetworkChanged looks at the interfaces again and tests every path. The Conn does
// so by itself when the monitor sees a change; an application may know earlier.
func (c *Conn) NetworkChanged() {
	select {
	case c.networkKick <- netmon.Event{Major: true}:
	default:
	}
}

// watch keeps what this node knows of itself true until ctx ends: its sockets, its
// addresses, its home. Nothing else changes them.
func (c *Conn) watch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-c.monitor.Changed():
			c.log.Info("network changed", "major", e.Major, "slept", e.Slept)
			c.networkChanged(e)
		case e := <-c.networkKick:
			c.networkChanged(e)
		case <-c.addrs.kick:
			c.addrs.update()
		}
	}
}

// networkChanged does what an event asks for. After a minor one, such as a
// second interface, the paths in use go on; what they know is looked at again.
func (c *Conn) networkChanged(e netmon.Event) {
	major := e.Major || e.Slept
	if major {
		if err := c.socks.rebind(); err != nil {
			c.log.Warn("udp rebind", "err", err)
		}
	}
	c.answers.forget()
	c.tunnels.forget()
	c.addrs.look(partLocal)
	c.addrs.update()
	if major {
		c.punch.closeAll()
		c.relays.NetworkChanged(e.Slept)
		c.perform(c.paths.do(func(m *nodemap.Map) []nodemap.Action { return m.NetworkChanged(time.Now()) }))
		if c.survey.mapper != nil {
			c.survey.mapper.NetworkChanged()
		}
	}
	c.survey.soon(major)
}

// admit asks Config.Admit.
func (c *Conn) admit(id identity.NodeID) bool {
	return c.cfg.Admit == nil || c.cfg.Admit(id)
}

// isClosed says that Close was called.
func (c *Conn) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}
