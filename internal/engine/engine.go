package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nodetun/nodetun/endpoint"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/outage"
	"github.com/nodetun/nodetun/internal/rules"
	"github.com/nodetun/nodetun/internal/vnet"
	"github.com/nodetun/nodetun/internal/wire"
	"github.com/nodetun/nodetun/netstack"
	"github.com/nodetun/nodetun/routing"
)

// Link is the host's side of the tunnel: a TUN device, or a fake of one.
type Link interface {
	// Read fills buf with the next packet of the host, unsplit, and returns the
	// part of buf that holds it. One caller at a time.
	Read(buf []byte) (vnet.Header, []byte, error)
	// Write gives the host one packet in parts; it keeps none of them. It may
	// be called concurrently.
	Write(h vnet.Header, parts ...[]byte) error
	// Close ends a waiting Read.
	Close() error
}

// Config says what an Engine works with. Everything without a default in its
// comment is required.
type Config struct {
	Endpoint *endpoint.Endpoint
	Link     Link
	Table    *routing.Table
	// MTU is that of the link in bytes. Zero: 1420.
	MTU int
	// OnDemand says what may dial nodes that are no peers.
	OnDemand OnDemand
	// Invites takes nodes that are no peers; nil: nobody does.
	Invites Invites
	// FlowTimeout is for how long a peer may not answer before its TCP flows end. Zero: 2 h.
	FlowTimeout time.Duration
	// DrainPatience is for how long a program on this host that is about to see its connection
	// reset may read nothing of what came before. Zero: 1 min.
	DrainPatience time.Duration
	// NoFEC leaves packets as they are on paths that lose some.
	NoFEC bool
	// Version and Name are told to peers in the hello. Both may be empty.
	Version, Name string
	// SSHHostKeys returns the host keys of this host's ssh server, "type base64", for peers
	// that may reach it (S23). Nil: none.
	SSHHostKeys func() []string
	// Instance tells one start of this node from another: 16 random bytes.
	Instance [16]byte
	// Logger defaults to slog.Default.
	Logger *slog.Logger
}

// Peer is one entry of the list of peers.
type Peer struct {
	ID identity.NodeID
	// Name is the petname, for logs only.
	Name string
	// Rules say what the peer may reach on this host. None at all: the peer is
	// denied, its connections are refused with code 5.
	Rules rules.Rules
	// Until is when they change next by themselves, for the peer to know; zero: never.
	Until time.Time
	// Addr holds what is known of where it is; its ID is ignored.
	Addr identity.NodeAddr
}

// Engine carries packets and flows between this host and its peers.
type Engine struct {
	cfg    Config
	log    *slog.Logger
	stack  *netstack.Stack
	dialer *endpoint.Dialer
	count  counters
	budget budget
	// standing are the flows that stand still because their peer is away.
	standing outage.Segments
	// probes has keep-alive tell the truth.
	probes probes

	// life ends when Run does; every goroutine below Run lives in tasks. spawn
	// and end hold taskMu, so that none begins after life ended.
	life   context.Context
	cancel context.CancelFunc
	taskMu sync.RWMutex
	tasks  sync.WaitGroup

	trace     trace
	reflected atomic.Uint64 // packets to the mirrors

	factsKick chan struct{} // holds one: the facts may have changed

	demand demand
	joins  atomic.Int32 // that are served

	// peers is replaced whole, never changed: reading it needs no lock. It holds those
	// of SetPeers and the nodes on demand.
	peers atomic.Pointer[map[identity.NodeID]*peer]
}

// DefaultMTU is that of the link in bytes: it leaves room for the outer headers on a path of 1500 bytes.
const DefaultMTU = 1420

// New makes an Engine with no peers. It carries nothing before Run, which releases
// what New made; an Engine that is never run is released by Close.
func New(cfg Config) (*Engine, error) {
	if cfg.Endpoint == nil || cfg.Link == nil || cfg.Table == nil {
		return nil, errors.New("engine: endpoint, link and table are required")
	}
	if cfg.MTU == 0 {
		cfg.MTU = DefaultMTU
	}
	if cfg.FlowTimeout == 0 {
		cfg.FlowTimeout = 2 * time.Hour
	}
	if cfg.DrainPatience == 0 {
		cfg.DrainPatience = time.Minute
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	e := &Engine{cfg: cfg, log: cfg.Logger, dialer: endpoint.NewDialer(cfg.Endpoint), factsKick: make(chan struct{}, 1)}
	e.life, e.cancel = context.WithCancel(context.Background())
	e.peers.Store(&map[identity.NodeID]*peer{})
	stack, err := netstack.New(netstack.Config{
		MTU:    cfg.MTU,
		Write:  cfg.Link.Write,
		Accept: e.acceptFromHost,
		Logger: cfg.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	e.stack = stack
	return e, nil
}

// Run carries traffic until ctx ends, or the link or the endpoint breaks. Before it returns it
// closes the link, tells the peers that it goes (code 4) and waits for all it
// started. It may be called once.
func (e *Engine) Run(ctx context.Context) error {
	var linkErr, acceptErr error
	e.tasks.Go(func() {
		linkErr = e.readLink()
		e.end()
	})
	e.tasks.Go(func() {
		acceptErr = e.acceptLoop()
		e.end()
	})
	e.tasks.Go(e.tellFacts)
	e.tasks.Go(e.guardMemory)
	select {
	case <-ctx.Done():
	case <-e.life.Done():
	}
	stopping := ctx.Err() != nil
	e.end() // first, so that no connection comes up behind the goodbyes
	for _, p := range *e.peers.Load() {
		p.shutdown(wire.CloseShuttingDown, "shutting down")
	}
	e.cfg.Link.Close()
	e.stack.Close()
	e.tasks.Wait()
	if stopping {
		return nil
	}
	return errors.Join(linkErr, acceptErr)
}

// Close releases an Engine that is not run, or no more.
func (e *Engine) Close() {
	e.end()
	e.stack.Close()
}

// spawn runs f on a goroutine that Run waits for; false once life has ended.
func (e *Engine) spawn(f func()) bool {
	e.taskMu.RLock()
	defer e.taskMu.RUnlock()
	if e.life.Err() != nil {
		return false
	}
	e.tasks.Go(f)
	return true
}

// end ends the engine's life: no goroutine begins any more.
func (e *Engine) end() {
	e.taskMu.Lock()
	defer e.taskMu.Unlock()
	e.cancel()
}

// SetPeers replaces the list of peers. Before it returns, removed and denied
// peers are disconnected and refused, and every flow that the new rules do not
// allow has ended (S16). One caller at a time.
func (e *Engine) SetPeers(list []Peer) {
	old, fresh := e.replacePeers(list)
	next := *e.peers.Load()
	for id, p := range old {
		if next[id] == nil {
			e.drop(p)
		}
	}
	e.greet(fresh)
}

func (e *Engine) replacePeers(list []Peer) (old map[identity.NodeID]*peer, fresh []*peer) {
	e.demand.mu.Lock()
	defer e.demand.mu.Unlock()
	old = *e.peers.Load()
	next := make(map[identity.NodeID]*peer, len(list))
	for _, entry := range list {
		p := old[entry.ID]
		if p == nil {
			p = newPeer(e, entry.ID)
		}
		if !p.allowed() && !entry.Rules.Empty() { // new, or denied until now: it waits to hear
			fresh = append(fresh, p)
		}
		next[entry.ID] = p
	}
	for _, entry := range list { // before they are found: a new peer is denied
		next[entry.ID].configure(entry)
	}
	for id, p := range old {
		if next[id] == nil && p.access.Load().onDemand {
			next[id] = p
		}
	}
	e.peers.Store(&next)
	return old, fresh
}

// greetLimit bounds how many peers are dialled because the node started, and
// greetPing how many are sent a disco ping.
const greetLimit = 32

// greet finds out at once where new peers are: a start should show who
// answers, and a peer that still holds a connection to an earlier run of this
// node must be able to reach it for a reset (S4).
func (e *Engine) greet(fresh []*peer) {
	for i, p := range fresh {
		if !p.allowed() {
			continue
		}
		e.cfg.Endpoint.Socket().Ping(p.id)
		if i < greetLimit && p.mayBeFound() {
			e.spawn(p.greet)
		}
	}
}

// Admit reports whether packets of the node may be answered at all (S6): it
// is a peer, denied ones included, who are told so, or one that this host dials.
func (e *Engine) Admit(id identity.NodeID) bool { return e.peer(id) != nil }

// Paired reports whether the node is a peer that may know where this host is: not denied,
// and not merely one that this host dials.
func (e *Engine) Paired(id identity.NodeID) bool {
	p := e.peer(id)
	return p != nil && p.allowed() && !p.access.Load().onDemand
}

// Denied reports whether the node is a peer that is refused.
func (e *Engine) Denied(id identity.NodeID) bool {
	p := e.peer(id)
	return p != nil && !p.allowed()
}

// peer returns the entry of a node, nil when it is neither a peer nor one on demand.
func (e *Engine) peer(id identity.NodeID) *peer { return (*e.peers.Load())[id] }

// ends returns the addresses of this host and the peer, as this host sees them.
func (e *Engine) ends(id identity.NodeID) (wire.Ends, bool) {
	remote, ok := e.cfg.Table.Entry(id)
	if !ok {
		return wire.Ends{}, false
	}
	self := e.cfg.Table.Self()
	return wire.Ends{Local6: self.V6, Remote6: remote.V6, Local4: self.V4, Remote4: remote.V4}, true
}

// sorted returns the peers in the order of their NodeIDs.
func (e *Engine) sorted() []*peer {
	return slices.SortedFunc(maps.Values(*e.peers.Load()), func(a, b *peer) int { return a.id.Compare(b.id) })
}

// acceptLoop takes connections of peers until the engine's life ends, or the
// endpoint, which is an error.
func (e *Engine) acceptLoop() error {
	for {
		conn, err := e.cfg.Endpoint.Accept(e.life)
		switch {
		case err == nil:
		case e.life.Err() != nil:
			return nil
		default:
			return fmt.Errorf("engine: no more connections can be accepted: %w", err)
		}
		if !e.spawn(func() { e.accept(conn) }) {
			conn.Close(uint64(wire.CloseShuttingDown), "shutting down")
		}
	}
}
