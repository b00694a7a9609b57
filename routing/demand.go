package routing

import (
	"container/list"
	"iter"
	"time"

	"github.com/nodetun/nodetun/identity"
)

const (
	// maxOnDemand bounds the nodes that are known only because somebody asked
	// for their name (S19).
	maxOnDemand = 1024
	// onDemandLife is how long such a node is kept without being asked for or
	// used (S19).
	onDemandLife = time.Hour
)

// demand orders the nodes on demand by age, in two lists: those that were only
// asked for, and those that carry packets. Both have the newest in front. A
// flood of names (a web page can ask for any number) therefore never displaces
// a session.
type demand struct {
	asked, used *list.List // of *demanded
	byID        map[identity.NodeID]*list.Element
}

type demanded struct {
	id   identity.NodeID
	last time.Time
	home *list.List // the list it is in
}

func newDemand() demand {
	return demand{asked: list.New(), used: list.New(), byID: make(map[identity.NodeID]*list.Element)}
}

func (d *demand) len() int { return len(d.byID) }

func (d *demand) has(id identity.NodeID) bool {
	_, ok := d.byID[id]
	return ok
}

// add puts a new node in front of those asked for.
func (d *demand) add(id identity.NodeID, now time.Time) {
	d.byID[id] = d.asked.PushFront(&demanded{id: id, last: now, home: d.asked})
}

// ask renews a node and reports whether it is known.
func (d *demand) ask(id identity.NodeID, now time.Time) bool {
	e, ok := d.byID[id]
	if !ok {
		return false
	}
	n := e.Value.(*demanded)
	n.last = now
	n.home.MoveToFront(e)
	return true
}

// use renews a known node and moves it to those in use.
func (d *demand) use(id identity.NodeID, now time.Time) {
	e, ok := d.byID[id]
	if !ok {
		return
	}
	n := e.Value.(*demanded)
	n.home.Remove(e)
	n.last, n.home = now, d.used
	d.byID[id] = d.used.PushFront(n)
}

func (d *demand) remove(id identity.NodeID) {
	if e, ok := d.byID[id]; ok {
		e.Value.(*demanded).home.Remove(e)
		delete(d.byID, id)
	}
}

// all yields the nodes, the first to go first. The lists must not change
// before the loop ends.
func (d *demand) all() iter.Seq[identity.NodeID] {
	return func(yield func(identity.NodeID) bool) {
		for _, l := range []*list.List{d.asked, d.used} {
			for e := l.Back(); e != nil; e = e.Prev() {
				if !yield(e.Value.(*demanded).id) {
					return
				}
			}
		}
	}
}

// oldest returns the node to go first; the zero NodeID when there is none.
func (d *demand) oldest() identity.NodeID {
	for id := range d.all() {
		return id
	}
	return identity.NodeID{}
}

func (d *demand) expired(now time.Time) []identity.NodeID {
	var ids []identity.NodeID
	for _, l := range []*list.List{d.asked, d.used} {
		for e := l.Back(); e != nil; e = e.Prev() {
			n := e.Value.(*demanded)
			if now.Sub(n.last) < onDemandLife {
				break
			}
			ids = append(ids, n.id)
		}
	}
	return ids
}
