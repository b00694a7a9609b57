package nodemap

import (
	"slices"
	"time"
)

// prune forgets what nobody needs: strangers after 30 s (S6), idle nodes that are
// no peers beyond 30, and their dead addresses beyond 20. It runs 5 s after
// something changed, not when all is idle.
func (m *Map) prune(now time.Time) {
	m.pruneAt = time.Time{}
	var idle, gone []*node
	for _, n := range m.list {
		n.paired = m.isPaired(n.id)
		switch {
		case n.paired:
		case n.use.created.IsZero():
			n.use.created = now
			m.pruneAt = now.Add(pruneGap)
		case m.limited(n):
			if age(now, n.lastUse()) >= strangerTime {
				gone = append(gone, n)
			} else {
				m.pruneAt = now.Add(pruneGap)
			}
		case !n.active(now):
			m.prunePaths(now, n)
			idle = append(idle, n)
		}
	}
	slices.SortStableFunc(idle, func(a, b *node) int { return a.lastUse().Compare(b.lastUse()) })
	gone = append(gone, idle[:max(0, len(idle)-maxIdleNodes)]...)
	for _, n := range gone {
		m.removeNode(n)
	}
}

// lastUse returns when payload last went or came or, for a node without any, when
// it was last heard or entered.
func (n *node) lastUse() time.Time {
	if t := later(n.use.sent, n.use.received); !t.IsZero() {
		return t
	}
	return later(n.use.heard, n.use.created)
}

// prunePaths drops addresses of an idle node without a sign of life for 120 s
// when there are more than 20.
func (m *Map) prunePaths(now time.Time, n *node) {
	for len(n.paths) > maxIdlePaths {
		var worst *path
		for _, p := range n.paths {
			if age(now, p.lastHeard) < idlePathTime || p.byUser() {
				continue
			}
			if worst == nil || lessPromising(p, worst) {
				worst = p
			}
		}
		if worst == nil {
			return
		}
		m.removePath(n, worst)
	}
}

// dropStranger makes room for one more node: of strangers at most 256 are kept,
// and only a stranger goes for a stranger (S6).
func (m *Map) dropStranger() {
	var oldest *node
	count := 0
	for _, n := range m.list {
		if !n.stranger() {
			continue
		}
		count++
		if oldest == nil || later(n.use.heard, n.use.created).Before(later(oldest.use.heard, oldest.use.created)) {
			oldest = n
		}
	}
	if count >= maxStrangers {
		m.removeNode(oldest)
	}
}
