package relayactor

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay/relayserver"
	"github.com/nodetun/nodetun/relay/relayserver/relaytest"
)

func TestThroughHomeRelay(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(map[bool]string{false: "http", true: "https"}[secure], func(t *testing.T) {
			var cfg relayserver.Config
			if secure {
				cfg.TLS, _ = relaytest.TLS(t)
				cfg.Access.Mode = relayserver.AccessEveryone
			}
			r := relaytest.Start(t, cfg)
			changed := make(chan struct{}, 100)
			node := func() *node {
				n := startNode(t, Config{
					Configured: []identity.RelayURL{r.URL}, InsecureTLS: true,
					Changed: func() { changed <- struct{}{} },
				})
				n.SetHome(r.URL)
				return n
			}
			a, b := node(), node()
			s := a.waitState(r.URL, StateConnected)
			if !s.Home || s.LastError != "" || a.Home() != r.URL {
				t.Errorf("%+v", s)
			}
			b.waitState(r.URL, StateConnected)
			if !a.Send(r.URL, b.id, []byte("abcdefgh"), 3) {
				t.Error("not taken")
			}
			for _, want := range []string{"abc", "def", "gh"} {
				b.expect(packet{r.URL, a.id, want})
			}
			b.Send(r.URL, a.id, []byte("back"), 1200)
			a.expect(packet{r.URL, b.id, "back"})
			if len(changed) < 2 {
				t.Error("nobody was told of the changes")
			}
			if c := b.Counters(); c.PacketsReceived != 1 || c.BytesReceived != 14 || c.BatchesSent != 1 || c.Dials != 1 {
				t.Errorf("%+v", c)
			}
		})
	}
}

// A relay that comes back gets its nodes back, almost at once.
func TestHomeComesBack(t *testing.T) {
	r := relaytest.Start(t, relayserver.Config{})
	n := startNode(t, Config{Configured: []identity.RelayURL{r.URL}})
	n.SetHome(r.URL)
	n.waitState(r.URL, StateConnected)
	address := r.Server.Addr().String()
	r.Stop()
	if s := n.waitState(r.URL, StateFailed); s.LastError == "" {
		t.Errorf("%+v", s)
	}
	relaytest.Start(t, relayserver.Config{Addr: address})
	begin := time.Now()
	n.waitState(r.URL, StateConnected)
	if d := time.Since(begin); d > 25*time.Second { // a second on a quiet machine
		t.Errorf("back after %v", d)
	}
}

// The home relay is dialled for ever, less and less often.
func TestHomeIsRetriedForEver(t *testing.T) {
	bubble(t, func(t *testing.T) {
		world := newNetwork(t)
		home := mustURL(t, "http://home.example:3340")
		n := startNode(t, Config{Configured: []identity.RelayURL{home}, Dial: world.dial})
		n.SetHome(home)
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		dials := world.dials()
		if len(dials) < 4 {
			t.Fatalf("%d dials", len(dials))
		}
		if first := dials[1].Sub(dials[0]); first > 100*time.Millisecond {
			t.Errorf("first retry after %v", first)
		}
		for i := range dials[1:] {
			if d := dials[i+1].Sub(dials[i]); d > maxDelay {
				t.Fatalf("a pause of %v", d)
			}
		}
		if most := int(24*time.Hour/maxDelay) * 2; len(dials) > most+20 {
			t.Errorf("%d dials in a day", len(dials))
		}
		s, _ := n.statusOf(home)
		if s.State != StateFailed || !strings.Contains(s.LastError, "refused") {
			t.Errorf("%+v", s)
		}
		// A changed network is a reason to try now.
		world.addRelay("home.example.:3340", relayserver.Access{})
		n.NetworkChanged(false)
		synctest.Wait()
		if more := len(world.dials()) - len(dials); more != 1 {
			t.Errorf("%d dials after the network changed", more)
		}
		n.waitState(home, StateConnected)
	})
}

// A refusal says why, and is not repeated at full speed.
func TestRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		world := newNetwork(t)
		world.addRelay("home.example.:3340", relayserver.Access{Mode: relayserver.AccessAllow})
		home := mustURL(t, "http://home.example:3340")
		n := startNode(t, Config{Configured: []identity.RelayURL{home}, Dial: world.dial})
		n.SetHome(home)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if s, _ := n.statusOf(home); s.State != StateFailed || s.LastError != "relay says: not authenticated" {
			t.Errorf("%+v", s)
		}
		if len(world.dials()) > 100 {
			t.Errorf("%d dials in 10 minutes", len(world.dials()))
		}
	})
}

// Two nodes with one key: the second is told, and does not storm the relay.
func TestOneKeyTwice(t *testing.T) {
	bubble(t, func(t *testing.T) {
		world := newNetwork(t)
		world.addRelay("home.example.:3340", relayserver.Access{})
		home := mustURL(t, "http://home.example:3340")
		cfg := Config{Key: identity.GenerateSecretKey(), Configured: []identity.RelayURL{home}, Dial: world.dial}
		first := startNode(t, cfg)
		first.SetHome(home)
		first.waitState(home, StateConnected)
		second := startNode(t, cfg)
		second.SetHome(home)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if s, _ := first.statusOf(home); s.State != StateConnected || time.Since(s.Since) < 9*time.Minute {
			t.Errorf("the first is disturbed: %+v", s)
		}
		if s, _ := second.statusOf(home); !strings.Contains(s.LastError, "connected already") {
			t.Errorf("%+v", s)
		}
		if len(world.dials()) > 100 {
			t.Errorf("%d dials in 10 minutes", len(world.dials()))
		}
	})
}

// Two machines with one key, at a relay that knows them by challenge: nobody is
// thrown out, the one that gets no packets knows why, and until when.
func TestOneKeyShared(t *testing.T) {
	bubble(t, func(t *testing.T) {
		world := newNetwork(t)
		world.relays["home.example.:3340"] = relaytest.StartMemory(t, relayserver.Config{Hosts: []string{"home.example"}})
		home := mustURL(t, "http://home.example:3340")
		cfg := Config{Key: identity.GenerateSecretKey(), Configured: []identity.RelayURL{home}, Dial: world.dial}
		first, second := startNode(t, cfg), startNode(t, cfg)
		first.SetHome(home)
		first.waitState(home, StateConnected)
		second.SetHome(home)
		second.waitState(home, StateConnected)
		time.Sleep(10 * time.Minute)
		shared := func(n *node) bool {
			synctest.Wait()
			s, _ := n.statusOf(home)
			if s.State != StateConnected {
				t.Errorf("%+v", s)
			}
			return s.Shared
		}
		if !shared(first) || shared(second) || len(world.dials()) != 2 {
			t.Errorf("first told %v, second told %v, %d dials", shared(first), shared(second), len(world.dials()))
		}
		second.SetHome(identity.RelayURL{})
		time.Sleep(2 * time.Minute) // it leaves
		if shared(first) {
			t.Error("the other one has left")
		}
	})
}

// Another relay than home is dialled by the first packet for it, which it then
// gets, and left 60 s after the last.
func TestOtherRelay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		world := newNetwork(t)
		world.addRelay("one.example.:80", relayserver.Access{})
		world.addRelay("two.example.:80", relayserver.Access{})
		one, two := mustURL(t, "http://one.example"), mustURL(t, "http://two.example")
		cfg := Config{Configured: []identity.RelayURL{one, two}, Dial: world.dial}
		a, b := startNode(t, cfg), startNode(t, cfg)
		a.SetHome(one)
		b.SetHome(two)
		a.waitState(one, StateConnected)
		b.waitState(two, StateConnected)
		if !a.Send(two, b.id, []byte("first"), 1200) {
			t.Error("not taken")
		}
		b.expect(packet{two, a.id, "first"})
		for range 10 { // b answers by its own home, where it heard a
			time.Sleep(30 * time.Second)
			a.Send(two, b.id, []byte("more"), 1200)
			b.expect(packet{two, a.id, "more"})
			b.Send(one, a.id, []byte("answer"), 1200)
			a.expect(packet{two, b.id, "answer"})
		}
		if _, ok := b.statusOf(one); ok {
			t.Error("b dialled a's home though it hears a at its own")
		}
		time.Sleep(59 * time.Second)
		if s, ok := a.statusOf(two); !ok || s.State != StateConnected {
			t.Errorf("left too early: %+v", s)
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if s, ok := a.statusOf(two); ok {
			t.Errorf("not left: %+v", s)
		}
		if s, _ := a.statusOf(one); s.State != StateConnected {
			t.Errorf("home: %+v", s)
		}
		// a has left relay two, and b was told: what b sends goes to a's home.
		b.Send(one, a.id, []byte("at home"), 1200)
		a.expect(packet{one, b.id, "at home"})
	})
}

// When the home changes, the former one stays until it is idle.
func TestHomeChanges(t *testing.T) {
	bubble(t, func(t *testing.T) {
		world := newNetwork(t)
		world.addRelay("one.example.:80", relayserver.Access{})
		world.addRelay("two.example.:80", relayserver.Access{})
		one, two := mustURL(t, "http://one.example"), mustURL(t, "http://two.example")
		n := startNode(t, Config{Configured: []identity.RelayURL{one, two}, Dial: world.dial})
		n.SetHome(one)
		n.waitState(one, StateConnected)
		n.SetHome(two)
		n.waitState(two, StateConnected)
		if s := n.Status(); len(s) != 2 || s[0].URL != two || !s[0].Home || s[1].Home || s[1].State != StateConnected {
			t.Errorf("%+v", s)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if s := n.Status(); len(s) != 1 || s[0].URL != two {
			t.Errorf("%+v", s)
		}
		n.SetHome(identity.RelayURL{})
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if s := n.Status(); len(s) != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// S6, S26: what comes from a node that is not admitted is dropped unread, and
// opens no way back.
func TestNotAdmitted(t *testing.T) {
	r := relaytest.Start(t, relayserver.Config{})
	friend := startNode(t, Config{Configured: []identity.RelayURL{r.URL}})
	stranger := startNode(t, Config{Configured: []identity.RelayURL{r.URL}})
	n := startNode(t, Config{
		Configured: []identity.RelayURL{r.URL},
		Admit:      func(id identity.NodeID) bool { return id == friend.id },
	})
	for _, x := range []*node{friend, stranger, n} {
		x.SetHome(r.URL)
		x.waitState(r.URL, StateConnected)
	}
	for range 10 {
		stranger.Send(r.URL, n.id, make([]byte, 10_000), 1000)
	}
	for begin := time.Now(); n.Counters().NotAdmittedSize < 10*10_000; time.Sleep(time.Millisecond) {
		if time.Since(begin) > patience {
			t.Fatalf("%+v", n.Counters())
		}
	}
	friend.Send(r.URL, n.id, []byte("hello"), 1200)
	n.expect(packet{r.URL, friend.id, "hello"})
	n.expectNothing()
	n.mu.RLock()
	defer n.mu.RUnlock()
	if l := n.links[r.URL]; l.heard.has(stranger.id) || !l.heard.has(friend.id) {
		t.Error("the wrong node is remembered")
	}
}

// Send never blocks and what waits is bounded, whatever the relay does.
func TestSendNeverBlocks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		url := mustURL(t, "http://deaf.example")
		n := startNode(t, Config{
			Configured: []identity.RelayURL{url},
			Dial: func(context.Context, string, string) (net.Conn, error) {
				ours, theirs := net.Pipe()
				go func() {
					defer theirs.Close()
					buf := make([]byte, 1000)
					_, _ = theirs.Read(buf)
					_, _ = io.WriteString(theirs, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: iroh derp http\r\n\r\n")
					_, _ = theirs.Read(buf) // the login, and then nothing more
					<-t.Context().Done()
				}()
				return ours, nil
			},
		})
		begin := time.Now()
		pkts := make([]byte, 60_000)
		for range 1000 {
			if !n.Send(url, identity.NodeID{1}, pkts, 1200) {
				t.Fatal("not taken")
			}
		}
		if d := time.Since(begin); d != 0 {
			t.Errorf("took %v", d)
		}
		time.Sleep(patience)
		n.Send(url, identity.NodeID{1}, pkts, 1200)
	})
}

// What waits for a relay that cannot be reached does not grow old.
func TestStalePacketsAreDropped(t *testing.T) {
	bubble(t, func(t *testing.T) {
		world := newNetwork(t)
		world.addRelay("two.example.:80", relayserver.Access{})
		one, two := mustURL(t, "http://one.example"), mustURL(t, "http://two.example")
		cfg := Config{Configured: []identity.RelayURL{one, two}, Dial: world.dial}
		a, b := startNode(t, cfg), startNode(t, cfg)
		b.SetHome(two)
		b.waitState(two, StateConnected)
		a.SetHome(one)
		time.Sleep(time.Minute)
		a.Send(one, b.id, []byte("old"), 1200)
		world.rename("two.example.:80", "one.example.:80")
		time.Sleep(time.Minute)
		a.waitState(one, StateConnected)
		a.Send(one, b.id, []byte("new"), 1200)
		got := <-b.got
		if got.data == "old" {
			// Legal only if the next try came within 3 s.
			if s, _ := a.statusOf(one); time.Since(s.Since) < 57*time.Second {
				t.Error("an old packet was sent")
			}
			got = <-b.got
		}
		if got.data != "new" {
			t.Errorf("%+v", got)
		}
	})
}

func TestBeforeAndAfterRun(t *testing.T) {
	r := relaytest.Start(t, relayserver.Config{})
	a := New(Config{Key: identity.GenerateSecretKey(), Deliver: func(identity.RelayURL, identity.NodeID, []byte) {}, Configured: []identity.RelayURL{r.URL}})
	a.SetHome(r.URL)
	if !a.Send(r.URL, identity.NodeID{1}, []byte("early"), 1200) {
		t.Error("not taken before Run")
	}
	a.NetworkChanged(false)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- a.Run(ctx) }()
	for begin := time.Now(); r.Server.Counters().PacketsReceived == 0; time.Sleep(time.Millisecond) {
		if time.Since(begin) > patience {
			t.Fatal("what was sent before Run is lost")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	a.Send(r.URL, identity.NodeID{1}, []byte("late"), 1200)
	if a.Send(mustURL(t, "https://new.example"), identity.NodeID{1}, []byte("late"), 1200) {
		t.Error("taken after Run")
	}
	a.SetHome(mustURL(t, "https://new.example"))
	a.NetworkChanged(false)
	if err := New(Config{}).Run(t.Context()); err == nil {
		t.Error("runs without key")
	}
}

func TestSendDoesNotAllocate(t *testing.T) {
	url := mustURL(t, "http://relay.example")
	a := New(Config{Key: identity.GenerateSecretKey(), Configured: []identity.RelayURL{url}})
	pkts := make([]byte, 12_000)
	send := func() { a.Send(url, identity.NodeID{1}, pkts, 1200) }
	for range 1000 { // until the queue is full and its memory goes round
		send()
	}
	if n := testing.AllocsPerRun(1000, send); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkSend(b *testing.B) {
	url := mustURL(b, "http://relay.example")
	a := New(Config{Key: identity.GenerateSecretKey(), Configured: []identity.RelayURL{url}})
	pkts := make([]byte, 12_000)
	b.SetBytes(int64(len(pkts)))
	b.ReportAllocs()
	for b.Loop() {
		a.Send(url, identity.NodeID{1}, pkts, 1200)
	}
}
