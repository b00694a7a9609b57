package relayactor

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay/relayserver"
)

// deafConn delivers nothing any more once it is deaf, as a connection does whose NAT has
// moved.
type deafConn struct {
	net.Conn
	deaf *atomic.Bool
}

func (c deafConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err != nil || !c.deaf.Load() {
			return n, err
		}
	}
}

// After a change of the network a connection that is dead is replaced in little more than
// a second, and one that works stays.
func TestDeadConnectionAfterChange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		world := newNetwork(t)
		world.addRelay("home.example.:3340", relayserver.Access{})
		home := mustURL(t, "http://home.example:3340")
		var deaf atomic.Bool
		first := true
		n := startNode(t, Config{Configured: []identity.RelayURL{home}, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := world.dial(ctx, network, address)
			if err == nil && first {
				first = false
				return deafConn{conn, &deaf}, nil
			}
			return conn, err
		}})
		n.SetHome(home)
		n.waitState(home, StateConnected)
		time.Sleep(time.Minute)
		n.NetworkChanged(false)
		time.Sleep(time.Minute)
		if dials := len(world.dials()); dials != 1 {
			t.Fatalf("%d dials though the connection works", dials)
		}
		deaf.Store(true)
		n.NetworkChanged(false)
		time.Sleep(changePatience + 500*time.Millisecond)
		synctest.Wait()
		if dials := len(world.dials()); dials != 2 {
			t.Errorf("%d dials, %v after the change", dials, changePatience+500*time.Millisecond)
		}
		n.waitState(home, StateConnected)
	})
}
