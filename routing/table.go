package routing

import (
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/nodetun/nodetun/identity"
)

// Entry is one node with its overlay addresses as this host sees them.
type Entry struct {
	ID identity.NodeID
	// V6 is always valid.
	V6 netip.Addr
	// V4 is the zero Addr when IPv4 is off or the pool is full.
	V4 netip.Addr
}

// ConflictError says that two nodes have one overlay IPv6 address. The second
// is refused.
type ConflictError struct {
	Addr netip.Addr
	// Existing holds the address; Refused wanted it.
	Existing, Refused identity.NodeID
}

// Error names the address and both nodes.
func (e *ConflictError) Error() string {
	return fmt.Sprintf("overlay address %s of %s already belongs to %s: only one of them can be known here", e.Addr, e.Refused, e.Existing)
}

// Table maps overlay addresses to NodeIDs and back. It knows this node, its
// peers, and a bounded number of nodes that were only asked for by name.
type Table struct {
	self   Entry
	byAddr shards[netip.Addr, identity.NodeID]
	byID   shards[identity.NodeID, Entry]
	v6     func(identity.NodeID) netip.Addr // OverlayV6, but in tests

	mirror4 netip.Addr // of the pool; zero without one

	mu       sync.Mutex // guards the fields below and every write to the shards
	hosts    hosts
	peers    map[identity.NodeID]struct{}
	reserved map[netip.Addr]identity.NodeID // what saved promised, until used or the node is removed
	promised map[identity.NodeID]netip.Addr // the same, the other way round
	demand   demand
}

// NewTable makes a table that knows this node only. pool comes from
// ChoosePool; the zero Prefix switches IPv4 off. saved holds the IPv4
// addresses of an earlier run (see Saved); those outside the pool, and all but
// one of those given twice, are ignored. It is not kept.
func NewTable(self identity.NodeID, pool netip.Prefix, saved map[identity.NodeID]netip.Addr) *Table {
	return newTable(self, pool, saved, OverlayV6)
}

func newTable(self identity.NodeID, pool netip.Prefix, saved map[identity.NodeID]netip.Addr, v6 func(identity.NodeID) netip.Addr) *Table {
	t := &Table{
		v6:       v6,
		hosts:    newHosts(pool),
		peers:    make(map[identity.NodeID]struct{}),
		reserved: make(map[netip.Addr]identity.NodeID),
		promised: make(map[identity.NodeID]netip.Addr),
		demand:   newDemand(),
	}
	if pool.IsValid() {
		t.mirror4 = Mirror(pool)
	}
	t.byAddr.hash = func(a netip.Addr) uint8 { b := a.As16(); return b[15] }
	t.byID.hash = func(id identity.NodeID) uint8 { return id[0] }
	for id, a := range saved {
		t.reserve(id, a)
	}
	t.self = Entry{ID: self, V6: v6(self), V4: t.assignLocked(self)}
	t.storeLocked(t.self)
	return t
}

// reserve keeps a saved address for its node. Of two nodes with one address
// the smaller NodeID wins, so that the outcome does not hang on map order.
func (t *Table) reserve(id identity.NodeID, a netip.Addr) {
	if !t.hosts.holds(a) {
		return
	}
	if other, dup := t.reserved[a]; dup {
		if other.Compare(id) < 0 {
			return
		}
		delete(t.promised, other)
	}
	t.reserved[a] = id
	t.promised[id] = a
}

// Self returns this node's entry.
func (t *Table) Self() Entry { return t.self }

// Lookup returns the node that an overlay address belongs to, this node
// included. It takes no lock and does not allocate.
func (t *Table) Lookup(a netip.Addr) (identity.NodeID, bool) {
	return t.byAddr.get(a)
}

// Entry returns the addresses of a known node, this node included. It takes no
// lock and does not allocate.
func (t *Table) Entry(id identity.NodeID) (Entry, bool) {
	return t.byID.get(id)
}

// Add makes a node a peer and returns its addresses; for a known peer it
// returns what that has. A *ConflictError means that its IPv6 address is
// another peer's. A full pool is no error: V4 is then the zero Addr.
func (t *Table) Add(id identity.NodeID) (Entry, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e, ok := t.permanentLocked(id); ok {
		return e, nil
	}
	v6 := t.v6(id)
	if other, ok := t.byAddr.get(v6); ok && other != id {
		if _, ok := t.permanentLocked(other); ok {
			return Entry{}, &ConflictError{Addr: v6, Existing: other, Refused: id}
		}
		t.dropOnDemandLocked(other)
	}
	old, _ := t.byID.get(id) // as a node on demand
	t.demand.remove(id)
	t.peers[id] = struct{}{}
	e := Entry{ID: id, V6: v6, V4: t.assignLocked(id)}
	t.storeLocked(e)
	if old.V4.IsValid() && old.V4 != e.V4 {
		t.byAddr.delete(old.V4)
	}
	return e, nil
}

// AddOnDemand makes a node that is no peer known, because somebody asked for
// its name (S19), and returns its addresses. Known nodes are returned as they
// are and count as asked now. At most 1024 such nodes are kept; the one asked
// longest ago goes first, nodes marked by Touch after all others, and any of
// them after an hour without either. A *ConflictError means that its IPv6
// address is another known node's.
func (t *Table) AddOnDemand(id identity.NodeID, now time.Time) (Entry, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e, ok := t.permanentLocked(id); ok {
		return e, nil
	}
	t.expireLocked(now)
	if t.demand.ask(id, now) {
		e, _ := t.byID.get(id)
		return e, nil
	}
	v6 := t.v6(id)
	if other, ok := t.byAddr.get(v6); ok {
		return Entry{}, &ConflictError{Addr: v6, Existing: other, Refused: id}
	}
	for t.demand.len() >= maxOnDemand {
		t.dropOnDemandLocked(t.demand.oldest())
	}
	e := Entry{ID: id, V6: v6, V4: t.assignOnDemandLocked(id)}
	t.demand.add(id, now)
	t.storeLocked(e)
	return e, nil
}

// Touch says that a node on demand is in use, so that names which were only
// asked for are displaced before it. Call it when the node is dialled and
// about once a minute while it is connected. Other nodes are ignored.
func (t *Table) Touch(id identity.NodeID, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.demand.use(id, now)
}

// Remove forgets a node and frees its IPv4 address. This node is never
// removed.
func (t *Table) Remove(id identity.NodeID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a, ok := t.promised[id]; ok && id != t.self.ID {
		delete(t.promised, id)
		delete(t.reserved, a)
	}
	if t.demand.has(id) {
		t.dropOnDemandLocked(id)
	}
	if _, ok := t.peers[id]; ok {
		delete(t.peers, id)
		t.eraseLocked(id)
	}
}

// Saved returns the IPv4 addresses of this node and its peers, to be kept for
// the next run. Nodes on demand are not in it.
func (t *Table) Saved() map[identity.NodeID]netip.Addr {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := make(map[identity.NodeID]netip.Addr, len(t.peers)+1)
	keep := func(e Entry) {
		if e.V4.IsValid() {
			m[e.ID] = e.V4
		}
	}
	keep(t.self)
	for id := range t.peers {
		e, _ := t.byID.get(id)
		keep(e)
	}
	return m
}

// permanentLocked returns the entry of this node or of a peer.
func (t *Table) permanentLocked(id identity.NodeID) (Entry, bool) {
	if id == t.self.ID {
		return t.self, true
	}
	if _, ok := t.peers[id]; !ok {
		return Entry{}, false
	}
	return t.byID.get(id)
}

// assignLocked picks the IPv4 address of a peer: the saved one, else the
// preferred one, else the next free one. Nodes on demand give way. Promises to
// nodes that never came are broken last.
func (t *Table) assignLocked(id identity.NodeID) netip.Addr {
	if a, ok := t.promised[id]; ok {
		if t.takeLocked(id, a) {
			return a
		}
	}
	if t.hosts.n == 0 {
		return netip.Addr{}
	}
	start := hashV4(id) % t.hosts.n
	for _, honour := range []bool{true, false} {
		for i := range t.hosts.n {
			a := t.hosts.at(uint32((uint64(start) + uint64(i)) % uint64(t.hosts.n)))
			if other, ok := t.reserved[a]; honour && ok && other != id {
				continue
			}
			if t.takeLocked(id, a) {
				return a
			}
		}
	}
	return netip.Addr{}
}

// takeLocked reports whether a peer may have the address, and moves a node on
// demand out of its way.
func (t *Table) takeLocked(id identity.NodeID, a netip.Addr) bool {
	holder, held := t.byAddr.get(a)
	switch {
	case !held || holder == id:
		return true
	case t.demand.has(holder):
		e, _ := t.byID.get(holder)
		t.byAddr.set(a, id)
		e.V4 = t.assignOnDemandLocked(holder)
		t.storeLocked(e)
		return true
	default:
		return false
	}
}

// assignOnDemandLocked picks an address of the slice for a node that is no
// peer. When all are taken the node asked longest ago loses its own.
func (t *Table) assignOnDemandLocked(id identity.NodeID) netip.Addr {
	n := t.hosts.demand
	if n == 0 {
		return netip.Addr{}
	}
	start := hashV4(id) % n
	for i := range n {
		a := t.hosts.at(t.hosts.n - n + (start+i)%n)
		if _, held := t.byAddr.get(a); held {
			continue
		}
		if _, promised := t.reserved[a]; !promised {
			return a
		}
	}
	for victim := range t.demand.all() {
		if e, _ := t.byID.get(victim); victim != id && e.V4.IsValid() {
			a := e.V4
			e.V4 = netip.Addr{}
			t.byID.set(victim, e)
			t.byAddr.delete(a)
			return a
		}
	}
	return netip.Addr{}
}

func (t *Table) expireLocked(now time.Time) {
	for _, id := range t.demand.expired(now) {
		t.dropOnDemandLocked(id)
	}
}

func (t *Table) dropOnDemandLocked(id identity.NodeID) {
	t.demand.remove(id)
	t.eraseLocked(id)
}

func (t *Table) storeLocked(e Entry) {
	t.byID.set(e.ID, e)
	t.byAddr.set(e.V6, e.ID)
	if e.V4.IsValid() {
		t.byAddr.set(e.V4, e.ID)
	}
}

func (t *Table) eraseLocked(id identity.NodeID) {
	e, ok := t.byID.get(id)
	if !ok {
		return
	}
	t.byAddr.delete(e.V6)
	if e.V4.IsValid() {
		t.byAddr.delete(e.V4)
	}
	t.byID.delete(id)
}
