package dht

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/nodetun/nodetun/discovery"
	"github.com/nodetun/nodetun/discovery/pkarr"
	"github.com/nodetun/nodetun/identity"
)

// Source is the name of what this package finds.
const Source = "dht"

// Bootstrap are the nodes by which walks begin: those that pkarr begins with.
var Bootstrap = []string{"router.bittorrent.com:6881", "dht.transmissionbt.com:6881", "dht.libtorrent.org:25401", "relay.pkarr.org:6881"}

// Republish is when a packet is put anew: nodes forget it after two hours (BEP 44).
const Republish = time.Hour

// Config says how a Client works. All may be zero.
type Config struct {
	// Bootstrap are nodes, host:port, by which the first walk begins. Nil: Bootstrap.
	Bootstrap []string
	// DNS finds their addresses; nil: as package net does.
	DNS *net.Resolver
	// Control is given each socket before it is used. May be nil.
	Control func(network, address string, c syscall.RawConn) error
	// TunPrefixes are routed into a device of ours: nobody is asked there.
	TunPrefixes []netip.Prefix
	// History knows the newest packets that were seen; nil: none is too old.
	History *pkarr.History
}

// Client asks the DHT. Its methods may be called from any goroutine.
type Client struct {
	cfg Config

	mu   sync.Mutex // guards near
	near []contact  // that answered in the last walk
}

var (
	_ discovery.Resolver = (*Client)(nil)
	_ pkarr.Server       = (*Client)(nil)
)

// New makes a client; it opens nothing.
func New(cfg Config) *Client {
	if cfg.Bootstrap == nil {
		cfg.Bootstrap = Bootstrap
	}
	return &Client{cfg: cfg}
}

// String implements pkarr.Server.
func (c *Client) String() string { return "the Mainline DHT" }

// settleTime is for how long a newer packet is waited for when one was found.
const settleTime = time.Second

// Get fetches the newest packet of a node that is found. The error wraps
// pkarr.ErrNotFound, ErrUnreachable, or the context's.
func (c *Client) Get(ctx context.Context, node identity.NodeID) (newest pkarr.Packet, err error) {
	walking, cancel := context.WithCancel(ctx)
	defer cancel()
	found := false
	err = c.find(walking, node, func(p pkarr.Packet) {
		if newest = p; !found {
			found = true
			time.AfterFunc(settleTime, cancel)
		}
	})
	if found && ctx.Err() == nil {
		err = nil
	}
	return newest, err
}

// Resolve implements discovery.Resolver: it tells of each packet that is newer than the
// ones before.
func (c *Client) Resolve(ctx context.Context, node identity.NodeID, found func(discovery.Item)) error {
	var old error
	some := false
	err := c.find(ctx, node, func(p pkarr.Packet) {
		if old = c.cfg.History.Check(p, time.Now()); old == nil {
			some = true
			found(discovery.Item{Addr: p.Addr(), Source: Source, Signed: p.Time()})
		}
	})
	switch {
	case some:
		return nil
	case old != nil:
		err = old
	}
	if err != nil {
		return fmt.Errorf("dht: %w", err)
	}
	return nil
}

// find walks to a node's item and calls newer for each packet that is newer than all before.
func (c *Client) find(ctx context.Context, node identity.NodeID, newer func(pkarr.Packet)) error {
	w, err := c.begin(ctx, targetOf(node))
	if err != nil {
		return err
	}
	defer w.conn.Close()
	found, err := c.walk(ctx, w, node, newer)
	if err == nil && !found {
		err = pkarr.ErrNotFound
	}
	return err
}

// walk runs a walk for a node's packets.
func (c *Client) walk(ctx context.Context, w *walk, node identity.NodeID, newer func(pkarr.Packet)) (found bool, err error) {
	var newest pkarr.Packet
	err = w.run(ctx, func(r reply) bool {
		if r.payload == nil {
			return true
		}
		if p, err := pkarr.Parse(node, r.payload); err == nil && (!found || p.NewerThan(newest)) {
			newest, found = p, true
			newer(p)
		}
		return true
	})
	c.remember(w)
	return found, err
}

// Put stores a packet with the nodes that are nearest to it. The error wraps
// pkarr.ErrOld, ErrUnreachable, or the context's.
func (c *Client) Put(ctx context.Context, p pkarr.Packet) error {
	w, err := c.begin(ctx, targetOf(p.ID()))
	if err != nil {
		return err
	}
	defer w.conn.Close()
	old := false
	if _, err := c.walk(ctx, w, p.ID(), func(other pkarr.Packet) { old = old || other.NewerThan(p) }); err != nil {
		return err
	}
	if old {
		return pkarr.ErrOld
	}
	return w.put(ctx, p)
}

// begin prepares a walk from the nodes that answered in the last one, or from those that
// everybody knows.
func (c *Client) begin(ctx context.Context, target id) (*walk, error) {
	w, err := c.newWalk(ctx, target)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	near := c.near
	c.mu.Unlock()
	for _, n := range near {
		w.add(candidate{contact: n, named: true})
	}
	if len(near) >= nearest {
		return w, nil
	}
	for _, at := range c.bootstrap(ctx) {
		w.add(candidate{contact: contact{addr: at}})
	}
	if len(w.list) == 0 {
		_ = w.conn.Close()
		return nil, fmt.Errorf("dht: %w: the addresses of %s and others are not found", ErrUnreachable, c.cfg.Bootstrap[0])
	}
	return w, nil
}

// lookupTime is for how long the addresses of a bootstrap node are waited for.
const lookupTime = 3 * time.Second

// bootstrap finds addresses of the nodes that everybody knows.
func (c *Client) bootstrap(ctx context.Context) (list []netip.AddrPort) {
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	var tasks sync.WaitGroup
	var mu sync.Mutex // guards list
	for _, name := range c.cfg.Bootstrap {
		tasks.Go(func() {
			host, service, err := net.SplitHostPort(name)
			if err != nil {
				return
			}
			port, err := net.LookupPort("udp", service)
			if err != nil {
				return
			}
			addrs, _ := c.cfg.DNS.LookupNetIP(ctx, "ip4", host) // no address is none
			mu.Lock()
			defer mu.Unlock()
			for _, addr := range addrs[:min(len(addrs), 4)] {
				list = append(list, netip.AddrPortFrom(addr.Unmap(), uint16(port)))
			}
		})
	}
	tasks.Wait()
	return list
}

// maxNear is how many nodes are remembered.
const maxNear = 32

// remember notes who answered. When too few did, the next walk begins anew.
func (c *Client) remember(w *walk) {
	var near []contact
	for _, n := range w.list {
		if n.state == answered && len(near) < maxNear {
			near = append(near, n.contact)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.near = near
}

// put gives the packet to the nearest nodes and waits until they have taken it.
func (w *walk) put(ctx context.Context, p pkarr.Packet) error {
	clear(w.waiting)
	now := time.Now()
	for _, c := range w.nearestAnswered() {
		if c.token != "" {
			w.ask(c, "put", putArgs(p, c.token), now)
		}
	}
	buf := make([]byte, maxAnswer)
	taken, old := 0, 0
	for len(w.waiting) > 0 && time.Since(now) < patience {
		if err := ctx.Err(); err != nil {
			return err
		}
		switch r, _, ok := w.read(buf); {
		case !ok:
		case r.code == 0:
			taken++
		case r.code == codeOld:
			old++
		}
	}
	switch {
	case old > 0:
		return pkarr.ErrOld
	case taken == 0:
		return errors.New("dht: no node takes the record")
	}
	return nil
}
