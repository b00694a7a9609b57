package nodemap

import (
	"net/netip"
	"slices"
	"time"
)

// ownerOf returns the node and path that an ip:port belongs to.
func (m *Map) ownerOf(a netip.AddrPort) (owner, bool) {
	if m.lastFrom == a && m.lastOwner.node != nil {
		return m.lastOwner, true
	}
	o, ok := m.owners[a]
	if ok {
		m.lastFrom, m.lastOwner = a, o
	}
	return o, ok
}

// claimPath gives the ip:port of p to n. A ping takes it only while it is
// unowned, a pong also from a node without a pong there in the last 30 s (S8).
func (m *Map) claimPath(now time.Time, n *node, p *path, byPong bool) {
	if p.owned {
		return
	}
	if o, ok := m.owners[p.addr]; ok {
		if !byPong || age(now, o.path.everPong) <= ownerHold {
			return
		}
		m.disown(o.path)
		m.settle(now, o.node, ReasonOwner)
	}
	p.owned = true
	m.owners[p.addr] = owner{n, p}
}

// disown takes the ip:port of p out of the index.
func (m *Map) disown(p *path) {
	if !p.owned {
		return
	}
	p.owned = false
	delete(m.owners, p.addr)
	m.lastFrom, m.lastOwner = netip.AddrPort{}, owner{}
}

// addPath returns the path of n to a, which must have passed the filter, and
// makes it if there is none. It returns nil when the node has too many.
func (m *Map) addPath(now time.Time, n *node, a netip.AddrPort, source Source) *path {
	p := n.path(a)
	if p == nil {
		if len(n.paths) >= maxPaths && !m.evictPath(now, n) {
			return nil
		}
		p = &path{addr: a, added: now}
		n.paths = append(n.paths, p)
	}
	p.addSource(source)
	return p
}

// evictPath drops the least promising path of n. Paths pinged within the ping
// gap stay, so that the gap holds for an address that is dropped and named again.
func (m *Map) evictPath(now time.Time, n *node) bool {
	var worst *path
	for _, p := range n.paths {
		if p == n.best || p.byUser() || p.usable(now) || age(now, p.out.last) < discoveryGap {
			continue
		}
		if worst == nil || lessPromising(p, worst) {
			worst = p
		}
	}
	if worst == nil {
		return false
	}
	m.removePath(n, worst)
	return true
}

func lessPromising(a, b *path) bool {
	if c := a.everPong.Compare(b.everPong); c != 0 {
		return c < 0
	}
	if c := a.lastHeard.Compare(b.lastHeard); c != 0 {
		return c < 0
	}
	return later(a.added, a.named).Before(later(b.added, b.named))
}

// removePath forgets a path. The caller settles the node.
func (m *Map) removePath(n *node, p *path) {
	m.disown(p)
	n.paths = slices.DeleteFunc(n.paths, func(o *path) bool { return o == p })
	if n.best == p {
		n.best = nil
	}
	if n.prev == p {
		n.prev = nil
	}
	if n.cand == p {
		n.cand = nil
	}
	n.inflight = slices.DeleteFunc(n.inflight, func(f ping) bool { return f.to.UDP == p.addr })
	n.choice.fast = time.Time{}
}
