package relayserver

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodetun/nodetun/relay"
)

// A connection without login is closed after 10 s.
func TestLoginTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := devServer(t)
		defer s.Close()
		begin := time.Now()
		r := pipeClient(t, s)
		r.ended()
		if d := time.Since(begin); d != loginTimeout {
			t.Errorf("closed after %v", d)
		}
	})
}

// A silent client is pinged after 26 to 30 s and dropped 5 s later.
func TestSilentClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := devServer(t)
		defer s.Close()
		r := pipeClient(t, s)
		r.write(relay.AppendClientInfo(nil, newKey()))
		begin := time.Now()
		r.expect(relay.TypePing)
		if d := time.Since(begin); d < 26*time.Second || d > 30*time.Second {
			t.Errorf("ping after %v", d)
		}
		begin = time.Now()
		r.ended()
		if d := time.Since(begin); d != relay.PongTimeout {
			t.Errorf("closed %v after the ping", d)
		}
	})
}

// A client that answers stays, and hears something at least every 120 s: that
// is when iroh-net 0.28 hangs up.
func TestQuietClientStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := devServer(t)
		defer s.Close()
		r := pipeClient(t, s)
		r.write(relay.AppendClientInfo(nil, newKey()))
		for begin := time.Now(); time.Since(begin) < time.Hour; {
			before := time.Now()
			data, err := relay.ParsePing(r.expect(relay.TypePing))
			if err != nil {
				t.Fatal(err)
			}
			if d := time.Since(before); d > 60*time.Second {
				t.Fatalf("silence of %v", d)
			}
			r.write(relay.AppendPong(nil, data))
		}
	})
}

// One that sends without end and is sent nothing gets keep-alives.
func TestSendingClientGetsKeepAlives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := devServer(t)
		defer s.Close()
		r := pipeClient(t, s)
		r.write(relay.AppendClientInfo(nil, newKey()))
		stop := make(chan struct{})
		defer close(stop)
		go func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Second):
					_, _ = r.conn.Write(relay.AppendPacket(nil, relay.TypeSendPacket, newKey().NodeID(), nil))
				}
			}
		}()
		begin := time.Now()
		r.expect(relay.TypeKeepAlive)
		if d := time.Since(begin); d < 60*time.Second || d > 62*time.Second {
			t.Errorf("keep-alive after %v", d)
		}
	})
}

// S2: whoever saw a login of version 3 can replay it. It must not throw out the
// node itself while that is alive.
func TestReplayedLoginDoesNotReplace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := devServer(t)
		defer s.Close()
		key, other := newKey(), newKey()
		victim, friend := pipeClient(t, s), pipeClient(t, s)
		victim.write(relay.AppendClientInfo(nil, key))
		victim.sync()
		friend.write(relay.AppendClientInfo(nil, other))
		friend.sync()

		thief := pipeClient(t, s)
		thief.write(relay.AppendClientInfo(nil, key))
		thief.send(other, []byte("not from the node")) // is dropped
		data, _ := relay.ParsePing(victim.expect(relay.TypePing))
		thief.sync() // an honest newcomer's pings are answered meanwhile
		victim.write(relay.AppendPong(nil, data))
		if text := string(thief.expect(relay.TypeHealth)); text != "this key is connected already" {
			t.Errorf("%q", text)
		}
		thief.ended()

		friend.send(key, []byte("hello"))
		victim.expectPacket(other, []byte("hello"))
		victim.send(other, []byte("hello"))
		friend.expectPacket(key, []byte("hello"))
		if c := s.Counters(); c.ReplacedRefused != 1 || c.Clients != 2 {
			t.Errorf("%+v", c)
		}
	})
}

// S2: a node whose old connection is dead gets its place after 5 s, and those
// it had sent to are not told that it is gone.
func TestDeadConnectionIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := devServer(t)
		defer s.Close()
		key, other := newKey(), newKey()
		old, friend := pipeClient(t, s), pipeClient(t, s)
		old.write(relay.AppendClientInfo(nil, key))
		old.sync()
		friend.write(relay.AppendClientInfo(nil, other))
		friend.sync()
		old.send(other, []byte("hello"))
		friend.expectPacket(key, []byte("hello"))

		begin := time.Now()
		newer := pipeClient(t, s)
		newer.write(relay.AppendClientInfo(nil, key))
		newer.sync()
		old.expect(relay.TypePing) // and no pong
		old.ended()
		if d := time.Since(begin); d != relay.PongTimeout {
			t.Errorf("replaced after %v", d)
		}
		_ = old.conn.Close()
		newer.send(other, []byte("me again"))
		friend.expectPacket(key, []byte("me again"))
		friend.send(key, []byte("welcome"))
		newer.expectPacket(other, []byte("welcome"))
		if c := s.Counters(); c.Clients != 2 || c.Accepts != 3 {
			t.Errorf("%+v", c)
		}
	})
}

// S2: many replays at once cost the victim one ping, not one each.
func TestManyReplaysShareOnePing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := devServer(t)
		defer s.Close()
		key := newKey()
		victim := pipeClient(t, s)
		victim.write(relay.AppendClientInfo(nil, key))
		victim.sync()
		var thieves []*raw
		for range 20 {
			r := pipeClient(t, s)
			r.write(relay.AppendClientInfo(nil, key))
			r.sync()
			thieves = append(thieves, r)
		}
		synctest.Wait() // all of them ask now
		data, _ := relay.ParsePing(victim.expect(relay.TypePing))
		victim.write(relay.AppendPong(nil, data))
		for _, r := range thieves {
			r.expect(relay.TypeHealth)
			r.ended()
			_ = r.conn.Close()
		}
		victim.sync() // no further ping was queued
	})
}
