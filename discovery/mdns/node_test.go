package mdns

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodetun/nodetun/discovery"
	"github.com/nodetun/nodetun/identity"
)

// cable is a link in memory, number 1, on which all hear each other.
type cable struct {
	mu      sync.Mutex
	ends    []*plug
	packets int
}

// plug is the end of one node.
type plug struct {
	cable *cable
	in    chan []byte
	ended chan struct{}
	used  bool
}

func (c *cable) plug() *plug {
	p := &plug{cable: c, in: make(chan []byte, 1000), ended: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ends = append(c.ends, p)
	return p
}

// theLink is the way by which they do.
var theLink = way{link: 1}

func (p *plug) close() { close(p.ended) }

func (p *plug) send(b []byte, _ way) {
	p.cable.mu.Lock()
	defer p.cable.mu.Unlock()
	p.cable.packets++
	for _, other := range p.cable.ends {
		select {
		case other.in <- slices.Clone(b):
		default:
		}
	}
}

func (p *plug) use([]way) []reader {
	if p.used {
		return nil
	}
	p.used = true
	return []reader{func(buf []byte) (int, way, error) {
		select {
		case b := <-p.in:
			return copy(buf, b), theLink, nil
		case <-p.ended:
			return 0, way{}, net.ErrClosed
		}
	}}
}

func (c *cable) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.packets
}

// start runs a node on the cable; stop ends it.
func (c *cable) start(t *testing.T, id identity.NodeID, at string) (n *Node, stop func()) {
	t.Helper()
	n = newNode(Config{ID: id}, c.plug())
	n.find = func() []way { return []way{theLink} }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- n.Run(ctx) }()
	n.Publish(identity.NodeAddr{ID: id, Direct: addrs(at)})
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return n, stop
}

func newID() identity.NodeID { return identity.GenerateSecretKey().NodeID() }

// resolve asks and returns the first address, and how long it took.
func resolve(n *Node, id identity.NodeID) (at string, took time.Duration, err error) {
	began := time.Now()
	err = n.Resolve(context.Background(), id, func(i discovery.Item) {
		if at == "" {
			at, took = i.Addr.Direct[0].String(), time.Since(began)
		}
	})
	return at, took, err
}

func TestFindEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c cable
		a, _ := c.start(t, newID(), "192.0.2.1:1")
		b, stopB := c.start(t, newID(), "192.0.2.2:1")
		synctest.Wait()
		if at, took, err := resolve(a, b.cfg.ID); err != nil || at != "192.0.2.2:1" || took > answerSpread {
			t.Errorf("%s after %v, %v", at, took, err)
		}
		// One that comes later, while it is waited for.
		late := newID()
		go func() {
			time.Sleep(1500 * time.Millisecond)
			c.start(t, late, "192.0.2.3:1")
		}()
		if at, _, err := resolve(a, late); err != nil || at != "192.0.2.3:1" {
			t.Errorf("%s, %v", at, err)
		}
		// One that moves says so by itself.
		b.Publish(identity.NodeAddr{ID: b.cfg.ID, Direct: addrs("192.0.2.22:1")})
		synctest.Wait()
		if at, took, err := resolve(a, b.cfg.ID); err != nil || at != "192.0.2.22:1" || took != 0 {
			t.Errorf("%s after %v, %v", at, took, err)
		}
		// One that leaves is not found any more.
		stopB()
		synctest.Wait()
		if at, _, err := resolve(a, b.cfg.ID); !errors.Is(err, ErrSilent) {
			t.Errorf("%s, %v", at, err)
		}
		// One that nobody knows.
		began := time.Now()
		if _, _, err := resolve(a, newID()); !errors.Is(err, ErrSilent) || time.Since(began) != resolveTime {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// Fifty nodes: few packets while they start, none while they are idle, two for a question
// of ours and little more for one of iroh's.
func TestQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c cable
		var nodes []*Node
		for range 50 {
			n, _ := c.start(t, newID(), "192.0.2.1:1")
			nodes = append(nodes, n)
		}
		time.Sleep(time.Minute)
		if n := c.count(); n != 3*len(nodes) {
			t.Errorf("%d packets while %d nodes start", n, len(nodes))
		}
		before := c.count()
		time.Sleep(time.Hour)
		if n := c.count() - before; n != 0 {
			t.Errorf("%d packets in an idle hour", n)
		}
		before = c.count()
		asker := c.plug()
		asker.send(query(), theLink)
		time.Sleep(time.Second)
		if n := c.count() - before - 1; n < enoughAnswers || n > 10 {
			t.Errorf("%d answers to who is there", n)
		}
		before = c.count()
		if _, _, err := resolve(nodes[0], nodes[49].cfg.ID); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		if n := c.count() - before; n > 15 {
			t.Errorf("%d packets for one question", n)
		}
		t.Logf("%d packets for one question among %d nodes", c.count()-before, len(nodes))
		// A flood of questions gets few answers.
		before = c.count()
		for range 1000 {
			nodes[0].handle(context.Background(), queryFor(nodes[0].cfg.ID), theLink)
		}
		if n := c.count() - before; n > 2*maxAnswers {
			t.Errorf("%d answers to a flood", n)
		}
	})
}

func TestHeardIsBounded(t *testing.T) {
	n := newNode(Config{ID: newID()}, new(cable).plug())
	now := time.Now()
	first := newID()
	n.rememberLocked(identity.NodeAddr{ID: first}, now)
	for i := range maxHeard + 10 {
		n.rememberLocked(identity.NodeAddr{ID: identity.NodeID{byte(i), byte(i >> 8), 1}}, now.Add(time.Duration(i+1)))
	}
	if _, ok := n.heard[first]; ok || len(n.heard) != maxHeard {
		t.Errorf("%d, the oldest among them: %v", len(n.heard), ok)
	}
}

// A packet by a link that is not used is nobody's.
func TestOtherLink(t *testing.T) {
	n := newNode(Config{ID: newID()}, new(cable).plug())
	n.ways = []way{theLink}
	other := newID()
	b := announcement(identity.NodeAddr{ID: other, Direct: addrs("192.0.2.9:1")})
	n.handle(t.Context(), b, way{link: 2})
	if len(n.heard) != 0 {
		t.Error("it was heard")
	}
	n.handle(t.Context(), b, theLink)
	if len(n.heard) != 1 {
		t.Error("it was not heard")
	}
}
