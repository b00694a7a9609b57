package relayactor

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay/relayserver"
)

// More than 64 KiB/s for five seconds is a flood, less or shorter is none.
func TestFlood(t *testing.T) {
	for _, test := range []struct {
		name     string
		size     int // of a frame
		gap      time.Duration
		lasts    time.Duration
		pause    time.Duration // after each two seconds
		want     bool
		earliest time.Duration
	}{
		{"little", 1000, 20 * time.Millisecond, time.Minute, 0, false, 0},
		{"much", 1000, 10 * time.Millisecond, time.Minute, 0, true, 4 * time.Second},
		{"large frames", 60 << 10, 500 * time.Millisecond, time.Minute, 0, true, 4 * time.Second},
		{"short", 1000, time.Millisecond, 4 * time.Second, 0, false, 0},
		{"now and then", 1000, time.Millisecond, time.Minute, 3 * time.Second, false, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			var f flood
			begin := time.Now()
			got := time.Duration(-1)
			for at, last := time.Duration(0), time.Duration(0); at < test.lasts; at += test.gap {
				if test.pause > 0 && at-last > 2*time.Second {
					at += test.pause
					last = at
				}
				if f.add(begin.Add(at), test.size) && got < 0 {
					got = at
				}
			}
			if (got >= 0) != test.want || got >= 0 && (got < test.earliest || got > 6*time.Second) {
				t.Errorf("a flood after %v, want one: %v", got, test.want)
			}
			if test.want && (!f.now(begin.Add(test.lasts)) || f.now(begin.Add(test.lasts+2*floodMemory))) {
				t.Error("it does not end, or too soon")
			}
		})
	}
}

// S26: who floods a node through its home relay is dropped unread, and the node takes the next
// relay; with none it stays. A friend is heard all the time.
func TestFloodedHome(t *testing.T) {
	bubble(t, func(t *testing.T) {
		world := newNetwork(t)
		world.addRelay("one.example.:80", relayserver.Access{})
		one, two := mustURL(t, "http://one.example"), mustURL(t, "http://two.example")
		cfg := Config{Configured: []identity.RelayURL{one, two}, Dial: world.dial}
		friend, stranger := startNode(t, cfg), startNode(t, cfg)
		cfg.Admit = func(id identity.NodeID) bool { return id == friend.id }
		n := startNode(t, cfg)
		for _, x := range []*node{friend, stranger} {
			x.Prefer([]identity.RelayURL{one, two})
			x.waitState(one, StateConnected)
		}
		n.Prefer([]identity.RelayURL{one, two})
		n.waitState(one, StateConnected)
		attack := func(d time.Duration) {
			for begin := time.Now(); time.Since(begin) < d; time.Sleep(10 * time.Millisecond) {
				stranger.Send(one, n.id, make([]byte, 1200), 1200)
			}
			synctest.Wait()
		}
		flooded := func() bool { s, _ := n.statusOf(one); return s.Flooded }
		reached := func(by identity.RelayURL) {
			t.Helper()
			friend.Send(by, n.id, []byte("hello"), 1200)
			n.expect(packet{by, friend.id, "hello"})
		}

		attack(3 * time.Second)
		if flooded() {
			t.Error("three seconds make a flood")
		}
		time.Sleep(5 * time.Second)
		attack(8 * time.Second) // the other relay cannot be reached
		if !flooded() || n.Home() != one {
			t.Errorf("flooded %v, home %v", flooded(), n.Home())
		}
		reached(one)

		world.addRelay("two.example.:80", relayserver.Access{})
		attack(40 * time.Second) // it is dialled again after 16 s at most
		if n.Home() != two {
			t.Fatalf("home is %v", n.Home())
		}
		reached(two)
		attack(30 * time.Second) // with the others less than floodPause
		if s, _ := n.statusOf(one); s.State == StateConnected || s.LastError != errFlooded.Error() {
			t.Errorf("%+v", s)
		}
		dropped := n.Counters().NotAdmittedSize
		attack(30 * time.Second)
		if more := n.Counters().NotAdmittedSize - dropped; more != 0 {
			t.Errorf("%d bytes more came from a relay that was left", more)
		}

		time.Sleep(3 * floodPause) // the attack is over
		synctest.Wait()
		if n.Home() != one || flooded() {
			t.Errorf("home is %v, flooded %v", n.Home(), flooded())
		}
		reached(one)
	})
}
