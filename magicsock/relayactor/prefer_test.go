package relayactor

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay/relayserver"
)

// remove takes a relay away: connections to it break, and dials fail.
func (n *network) remove(address string) {
	n.mu.Lock()
	r := n.relays[address]
	delete(n.relays, address)
	n.mu.Unlock()
	r.Stop()
}

// two returns a network with two relays.
func two(t *testing.T) (*network, identity.RelayURL, identity.RelayURL) {
	world := newNetwork(t)
	world.addRelay("one.example.:80", relayserver.Access{})
	world.addRelay("two.example.:80", relayserver.Access{})
	return world, mustURL(t, "http://one.example"), mustURL(t, "http://two.example")
}

// waitHome waits until the home is url and returns how long it took.
func (n *node) waitHome(url identity.RelayURL) time.Duration {
	n.t.Helper()
	begin := time.Now()
	for n.Home() != url {
		if time.Since(begin) > time.Minute {
			n.t.Fatalf("home is %v, not %v: %+v", n.Home(), url, n.Status())
		}
		time.Sleep(time.Millisecond)
	}
	return time.Since(begin)
}

// The next of the list takes over when the home dies, and hands back 10 s after it
// returned.
func TestPreferFailover(t *testing.T) {
	bubble(t, func(t *testing.T) {
		world, one, two := two(t)
		var mu sync.Mutex
		state := map[identity.RelayURL]bool{}
		n := startNode(t, Config{
			Configured: []identity.RelayURL{one, two}, Dial: world.dial,
			LinkChanged: func(url identity.RelayURL, up bool) { mu.Lock(); state[url] = up; mu.Unlock() },
		})
		n.Prefer([]identity.RelayURL{one, two})
		n.waitState(one, StateConnected)
		if _, linked := n.statusOf(two); linked || n.Home() != one {
			t.Errorf("home %v, links %+v", n.Home(), n.Status())
		}
		world.remove("one.example.:80")
		if d := n.waitHome(two); d > time.Second {
			t.Errorf("the second relay took over after %v", d)
		}
		mu.Lock()
		if state[one] || !state[two] {
			t.Errorf("links %v", state)
		}
		mu.Unlock()
		time.Sleep(10 * time.Minute)
		if s, _ := n.statusOf(one); s.State != StateFailed {
			t.Errorf("the first relay is not tried any more: %+v", s)
		}
		world.addRelay("one.example.:80", relayserver.Access{})
		n.waitHome(one)
		if s, _ := n.statusOf(one); time.Since(s.Since) < returnAfter || time.Since(s.Since) > returnAfter+time.Second {
			t.Errorf("the first relay is home again %v after it connected", time.Since(s.Since))
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if _, linked := n.statusOf(two); linked {
			t.Error("the second relay is still linked")
		}
	})
}

// A connection that broke while its relay lives, as when a router in between
// forgot it, is replaced without another home; a second failure ends the patience.
func TestPreferSecondChance(t *testing.T) {
	bubble(t, func(t *testing.T) {
		world, one, two := two(t)
		n := startNode(t, Config{Configured: []identity.RelayURL{one, two}, Dial: world.dial})
		n.Prefer([]identity.RelayURL{one, two})
		n.waitState(one, StateConnected)
		for range 3 {
			dials := len(world.dials())
			world.cutAll()
			time.Sleep(firstDelay)
			n.waitState(one, StateConnected)
			if got := len(world.dials()); got != dials+1 {
				t.Errorf("%d dials", got-dials)
			}
			if _, linked := n.statusOf(two); linked || n.Home() != one {
				t.Errorf("home %v, links %+v", n.Home(), n.Status())
			}
			time.Sleep(steadyAfter)
		}
		world.hang("one.example.:80")
		world.cutAll()
		if d := n.waitHome(two); d < secondChance || d > secondChance+100*time.Millisecond {
			t.Errorf("the second relay took over after %v", d)
		}
	})
}

// A relay that hangs while it is dialled holds nobody up.
func TestPreferHangingRelay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		world, _, two := two(t)
		hangs := mustURL(t, "http://hangs.example")
		world.hang("hangs.example.:80")
		n := startNode(t, Config{Configured: []identity.RelayURL{hangs, two}, Dial: world.dial})
		n.Prefer([]identity.RelayURL{hangs, two})
		if d := n.waitHome(two); d > 2*time.Second {
			t.Errorf("%v", d)
		}
	})
}

// Another order moves the home once the new one has been connected for 10 s.
func TestPreferAnotherOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		world, one, two := two(t)
		n := startNode(t, Config{Configured: []identity.RelayURL{one, two}, Dial: world.dial})
		n.Prefer([]identity.RelayURL{one, two})
		n.waitState(one, StateConnected)
		n.Prefer([]identity.RelayURL{two, one})
		if n.Home() != one {
			t.Error("the home moved before the new one was connected")
		}
		if d := n.waitHome(two); d > returnAfter+time.Second {
			t.Errorf("moved after %v", d)
		}
		n.Prefer(nil)
		if !n.Home().IsZero() {
			t.Errorf("home %v", n.Home())
		}
	})
}

// What is for a node at a relay that failed goes through our home, which it may
// share.
func TestSendThroughHome(t *testing.T) {
	bubble(t, func(t *testing.T) {
		world, one, two := two(t)
		all := []identity.RelayURL{one, two}
		a := startNode(t, Config{Configured: all, Dial: world.dial})
		b := startNode(t, Config{Configured: all, Dial: world.dial})
		a.Prefer(all)
		b.Prefer(all)
		a.waitState(one, StateConnected)
		b.waitState(one, StateConnected)
		world.remove("one.example.:80")
		a.waitHome(two)
		b.waitHome(two)
		b.waitState(two, StateConnected)
		a.waitState(two, StateConnected)
		a.Send(one, b.id, []byte("over"), 1200)
		b.expect(packet{two, a.id, "over"})
	})
}

// After a sleep connections are replaced, not pinged.
func TestSleptReplacesConnections(t *testing.T) {
	bubble(t, func(t *testing.T) {
		world, one, _ := two(t)
		n := startNode(t, Config{Configured: []identity.RelayURL{one}, Dial: world.dial})
		n.SetHome(one)
		n.waitState(one, StateConnected)
		dials := len(world.dials())
		n.NetworkChanged(false)
		time.Sleep(time.Second)
		if more := len(world.dials()) - dials; more != 0 {
			t.Errorf("%d dials after a change that left the connection alone", more)
		}
		n.NetworkChanged(true)
		time.Sleep(time.Second)
		if more := len(world.dials()) - dials; more != 1 {
			t.Errorf("%d dials after a sleep", more)
		}
		n.waitState(one, StateConnected)
	})
}
