package dht

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// Limits of a walk.
const (
	nearest = 8 // nodes that keep an item (BEP 5)
	// parallel questions wait at a time; one that is not answered for slow does not
	// count any more, and is given up after patience.
	parallel  = 8
	slow      = 500 * time.Millisecond
	patience  = 2 * time.Second
	maxAsked  = 256 // nodes
	walkTime  = 10 * time.Second
	tick      = 50 * time.Millisecond // how exactly time is kept
	maxAnswer = 2048                  // bytes of a packet that is read
)

// ErrUnreachable says that no node of the DHT answers.
var ErrUnreachable = errors.New("no node of the DHT answers")

// state is what is known of a node in a walk.
type state int

const (
	fresh state = iota
	asked
	answered
	failed
)

// candidate is a node that may keep the item, or know who does.
type candidate struct {
	contact
	named bool // its id is known
	state state
	since time.Time // that it was asked
	token string    // that lets us put
}

// walk asks nodes for an item, from one to the next, until the nearest have answered. All
// of it is done by one goroutine.
type walk struct {
	conn    *net.UDPConn
	self    id
	target  id
	tun     []netip.Prefix
	list    []*candidate // those without a name first, then the nearest
	seen    map[netip.Addr]struct{}
	waiting map[string]*candidate // by transaction
	count   int                   // asked
	next    uint16                // transaction
}

func (c *Client) newWalk(ctx context.Context, target id) (*walk, error) {
	lc := net.ListenConfig{Control: c.cfg.Control}
	conn, err := lc.ListenPacket(ctx, "udp4", ":0")
	if err != nil {
		return nil, fmt.Errorf("dht: %w", err)
	}
	w := &walk{
		conn: conn.(*net.UDPConn), target: target, tun: c.cfg.TunPrefixes,
		seen: make(map[netip.Addr]struct{}), waiting: make(map[string]*candidate),
	}
	var random [2]byte
	_, _ = rand.Read(w.self[:]) // never fails
	_, _ = rand.Read(random[:])
	w.next = binary.BigEndian.Uint16(random[:])
	return w, nil
}

// add notes a node, one for each address, that another one named.
func (w *walk) add(c candidate) {
	if _, ok := w.seen[c.addr.Addr()]; ok || len(w.list) >= 4*maxAsked {
		return
	}
	w.seen[c.addr.Addr()] = struct{}{}
	at, _ := slices.BinarySearchFunc(w.list, &c, w.order)
	w.list = slices.Insert(w.list, at, &c)
}

func (w *walk) order(a, b *candidate) int {
	if a.named != b.named {
		if a.named {
			return 1
		}
		return -1
	}
	da, db := a.id.distance(w.target), b.id.distance(w.target)
	return slices.Compare(da[:], db[:])
}

// run walks. each is told every answer; false ends the walk.
func (w *walk) run(ctx context.Context, each func(reply) bool) error {
	ctx, cancel := context.WithTimeout(ctx, walkTime)
	defer cancel()
	buf := make([]byte, maxAnswer)
	heard := false
	for w.settle(time.Now()) {
		if err := ctx.Err(); err != nil {
			return err
		}
		r, from, ok := w.read(buf)
		if !ok {
			continue
		}
		heard = true
		if from.state = answered; r.code != 0 {
			from.state = failed
			continue
		}
		from.token = r.token
		if !from.named || from.id != r.id { // who is not whom it was named for has its own place
			w.list = slices.DeleteFunc(w.list, func(c *candidate) bool { return c == from })
			from.id, from.named = r.id, true
			at, _ := slices.BinarySearchFunc(w.list, from, w.order)
			w.list = slices.Insert(w.list, at, from)
		}
		for _, c := range r.nodes[:min(len(r.nodes), 2*nearest)] {
			if w.usable(c.addr, from.addr.Addr()) {
				w.add(candidate{contact: c, named: true})
			}
		}
		if !each(r) {
			return nil
		}
	}
	if !heard {
		return ErrUnreachable
	}
	return nil
}

// settle asks whom it is time to ask, and reports whether the walk goes on: a node that is
// nearer than the nearest that answered may do so still.
func (w *walk) settle(now time.Time) bool {
	busy := 0
	for _, c := range w.waiting {
		if c.state == asked && now.Sub(c.since) < slow {
			busy++
		}
	}
	near, open := 0, false
	for _, c := range w.list {
		switch {
		case near == nearest:
			return open
		case c.state == answered:
			near++
		case c.state == asked && now.Sub(c.since) < patience:
			open = true
		case c.state == asked:
			c.state = failed
		case c.state == fresh && w.count < maxAsked:
			if open = true; busy < parallel {
				busy++
				w.ask(c, "get", getArgs(w.target), now)
			}
		}
	}
	return open
}

// ask sends a question to a node.
func (w *walk) ask(c *candidate, method string, args map[string]any, now time.Time) {
	w.next++
	w.count++
	tx := string(binary.BigEndian.AppendUint16(nil, w.next))
	c.state, c.since = asked, now
	w.waiting[tx] = c
	_, _ = w.conn.WriteToUDPAddrPort(query(tx, method, w.self, args), c.addr) // as good as lost
}

// read waits a moment for the answer of a node that was asked.
func (w *walk) read(buf []byte) (reply, *candidate, bool) {
	_ = w.conn.SetReadDeadline(time.Now().Add(tick))
	n, from, err := w.conn.ReadFromUDPAddrPort(buf)
	if err != nil {
		return reply{}, nil, false
	}
	r, err := parse(buf[:n])
	c := w.waiting[r.tx]
	if err != nil || c == nil || c.addr != netip.AddrPortFrom(from.Addr().Unmap(), from.Port()) {
		return reply{}, nil, false
	}
	delete(w.waiting, r.tx)
	return r, c, true
}

// usable reports whether to ask at an address that a node named: not in networks where
// that node is not, and not in the tunnel.
func (w *walk) usable(at netip.AddrPort, from netip.Addr) bool {
	ip := at.Addr()
	switch {
	case at.Port() == 0, ip.IsUnspecified(), ip.IsMulticast(), ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return false
	case slices.ContainsFunc(w.tun, func(p netip.Prefix) bool { return p.Contains(ip) }):
		return false
	default:
		return isPublic(ip) || !isPublic(from)
	}
}

// isPublic reports whether an address is one of the internet.
func isPublic(ip netip.Addr) bool {
	return ip.IsGlobalUnicast() && !ip.IsPrivate() && !slices.ContainsFunc(special, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// special are networks of a purpose (RFC 6890): this network, shared space of carriers,
// benchmarks, reserved.
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("240.0.0.0/4"),
}

// nearestAnswered are the nodes that keep the item.
func (w *walk) nearestAnswered() (list []*candidate) {
	for _, c := range w.list {
		if c.state == answered && len(list) < nearest {
			list = append(list, c)
		}
	}
	return list
}
