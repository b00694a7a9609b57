package nodemap

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nodetun/nodetun/identity"
)

// Remote returns what is known about a node.
func (m *Map) Remote(now time.Time, id identity.NodeID) (RemoteInfo, bool) {
	n := m.byID[id]
	if n == nil {
		return RemoteInfo{}, false
	}
	return m.info(now, n), true
}

// Remotes returns what is known about all nodes, sorted by id.
func (m *Map) Remotes(now time.Time) []RemoteInfo {
	out := make([]RemoteInfo, 0, len(m.list))
	for _, n := range m.list {
		out = append(out, m.info(now, n))
	}
	slices.SortFunc(out, func(a, b RemoteInfo) int { return a.ID.Compare(b.ID) })
	return out
}

func (m *Map) info(now time.Time, n *node) RemoteInfo {
	conn, route := n.decide(now)
	r := RemoteInfo{
		ID: n.id, Mapped: n.mapped,
		Conn: conn, UDP: route.UDP, Relay: route.Relay, RTT: n.rtt(conn),
		RelayInfo: RelayInfo{
			URL: n.relay.url, Latency: n.relay.latency,
			LastPong: n.relay.lastPong, LastPayload: n.relay.lastPayload, LastHeard: n.relay.lastHeard,
		},
		Addrs:  make([]AddrInfo, 0, len(n.paths)),
		Active: n.active(now), LastSent: n.use.sent, LastReceived: n.use.received, LastHeard: n.use.heard,
		WantSince: n.use.want, Unreachable: n.unreachable(now),
		Switches: n.choice.switches, SwitchReasons: maps.Clone(n.choice.reasons),
		LastSwitch: n.choice.lastSwitch, LastReason: n.choice.lastReason,
	}
	for _, p := range n.paths {
		r.Addrs = append(r.Addrs, m.addrInfo(now, p))
	}
	slices.SortStableFunc(r.Addrs, func(a, b AddrInfo) int {
		return cmp.Or(
			-order(a.Addr == r.UDP, b.Addr == r.UDP), -order(a.Usable, b.Usable),
			b.LastPong.Compare(a.LastPong), a.Addr.Compare(b.Addr))
	})
	r.Cause = m.cause(now, n)
	r.LastError = m.explain(now, n, r.Cause)
	return r
}

// order compares two bools, false first.
func order(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

func (m *Map) addrInfo(now time.Time, p *path) AddrInfo {
	i := AddrInfo{
		Addr: p.addr, Sources: slices.Clone(p.sources), Latency: p.latency,
		LastPing: p.out.last, LastPong: p.everPong, LastPayload: p.lastPayload, LastHeard: p.lastHeard,
		LastControl: p.control, ControlKind: p.controlKind,
		Usable: p.usable(now), Narrow: p.narrow(), Tries: p.out.tries, GivenUp: p.givenUp(now),
	}
	if o, ok := m.owners[p.addr]; ok {
		i.Owner = o.node.id
	}
	i.MTU = p.room.limit
	i.Result = i.result(now, !p.owned && !i.Owner.IsZero())
	return i
}

// result says what came of an address. others says that it belongs to another
// node.
func (i *AddrInfo) result(now time.Time, others bool) string {
	switch {
	case others:
		return "another node answers there: " + i.Owner.Short()
	case i.Usable && i.MTU > 0:
		return fmt.Sprintf("answers in %s, packets up to %d bytes", millis(i.Latency), i.MTU)
	case i.Usable:
		return "answers in " + millis(i.Latency)
	case i.Narrow:
		return fmt.Sprintf("answers, but not to packets of %d bytes", paddedSize)
	case i.Tries > 0 && !i.LastPong.IsZero():
		return fmt.Sprintf("no answer to %s; answered %s ago", plural(i.Tries, "ping"), ago(now, i.LastPong))
	case i.GivenUp:
		return fmt.Sprintf("no answer to %s, left alone for now", plural(i.Tries, "ping"))
	case i.Tries > 0:
		return "no answer to " + plural(i.Tries, "ping")
	case !i.LastPong.IsZero():
		return fmt.Sprintf("answered %s ago", ago(now, i.LastPong))
	case !i.LastHeard.IsZero():
		return fmt.Sprintf("heard %s ago, not tried", ago(now, i.LastHeard))
	}
	return "not tried"
}

func ago(now, t time.Time) string { return now.Sub(t).Truncate(time.Second).String() }

func millis(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// rtt returns the latency of a path in use.
func (n *node) rtt(conn ConnType) time.Duration {
	switch conn {
	case ConnDirect:
		return n.best.latency
	case ConnRelay:
		return n.relay.latency
	case ConnMixed:
		if n.relay.latency == 0 {
			return n.best.latency
		}
		return min(n.best.latency, n.relay.latency)
	}
	return 0
}

// unreachable says that something that wants an answer has had none for 10 s, or
// that the node answers but for so long no path to it has carried full packets.
func (n *node) unreachable(now time.Time) bool {
	return waited(now, n.use.want, unreachableTime) || waited(now, n.use.stuck, unreachableTime) && n.onlyNarrow()
}

// onlyNarrow says that the node has no relay and no address but small ones.
func (n *node) onlyNarrow() bool {
	return n.relay.url.IsZero() && slices.ContainsFunc(n.paths, (*path).narrow)
}

func waited(now, since time.Time, d time.Duration) bool {
	return !since.IsZero() && now.Sub(since) >= d
}

// cause says what is wrong, once something has been unanswered for 6 s.
func (m *Map) cause(now time.Time, n *node) Cause {
	switch {
	case waited(now, n.use.stuck, causeTime) && n.onlyNarrow():
		return CausePathMTU
	case !waited(now, n.use.want, causeTime):
		return CauseNone
	case n.relay.url.IsZero() && len(n.paths) == 0:
		return CauseNoAddress
	case m.otherOwner(n) != nil:
		return CauseOther
	case !n.use.heard.IsZero():
		return CauseSilent
	}
	return CauseNoAnswer
}

// otherOwner returns a path of n that belongs to another node, if none is n's own.
func (m *Map) otherOwner(n *node) *path {
	var other *path
	for _, p := range n.paths {
		if p.owned {
			return nil
		}
		if _, ok := m.owners[p.addr]; ok {
			other = p
		}
	}
	return other
}

// explain returns one line about the cause.
func (m *Map) explain(now time.Time, n *node, c Cause) string {
	switch c {
	case CauseNoAddress:
		return "no address of this node is known"
	case CauseNoAnswer:
		return "no node with this id answers at " + n.tried(func(p *path) bool { return p.everPong.IsZero() })
	case CauseSilent:
		return fmt.Sprintf("no answer for %d s from %s", int(now.Sub(n.use.want).Seconds()), n.tried(func(*path) bool { return true }))
	case CauseOther:
		p := m.otherOwner(n)
		return fmt.Sprintf("another node answers at %s: %s", p.addr, m.owners[p.addr].node.id.Short())
	case CausePathMTU:
		return "path MTU: packets of 1200 bytes do not arrive at " + n.tried((*path).narrow) + " and no relay is known"
	}
	return ""
}

// tried names up to three addresses, those given by the user first, and the relay.
func (n *node) tried(which func(*path) bool) string {
	var names []string
	for _, user := range []bool{true, false} {
		for _, p := range n.paths {
			if p.byUser() == user && !p.out.last.IsZero() && which(p) && len(names) < 3 {
				names = append(names, p.addr.String())
			}
		}
	}
	if !n.relay.url.IsZero() {
		names = append(names, n.relay.url.String())
	}
	if len(names) == 0 {
		return "any address"
	}
	return strings.Join(names, ", ")
}
