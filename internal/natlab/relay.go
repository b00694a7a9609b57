package natlab

import (
	"context"
	"fmt"
	"net"
	"syscall"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
	"github.com/nodetun/nodetun/relay/relayserver"
	"github.com/nodetun/nodetun/relay/relayserver/relaytest"
)

// Relay is a relay on a public host that serves STUN as well.
type Relay struct {
	URL  identity.RelayURL
	lab  *Lab
	addr string
	mem  *relaytest.Memory
}

// Relay puts a relay on the public network.
func (l *Lab) Relay() *Relay {
	l.t.Helper()
	host := l.Internet.Host()
	host.ServeSTUN(relay.DefaultSTUNPort)
	addr := net.JoinHostPort(host.Addr().String(), "3340")
	url, err := identity.ParseRelayURL("http://" + addr)
	if err != nil {
		l.t.Fatal(err)
	}
	r := &Relay{URL: url, lab: l, addr: addr, mem: relaytest.StartMemory(l.t, relayserver.Config{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.relays[addr] = r
	return r
}

// Stop ends the relay for good; its STUN server goes on.
func (r *Relay) Stop() {
	r.lab.mu.Lock()
	delete(r.lab.relays, r.addr)
	r.lab.mu.Unlock()
	r.mem.Stop()
}

// dial connects to a relay.
func (l *Lab) dial(ctx context.Context, network, address string) (net.Conn, error) {
	l.mu.Lock()
	r := l.relays[address]
	l.mu.Unlock()
	if r == nil {
		return nil, fmt.Errorf("dial %s %s: %w", network, address, syscall.ECONNREFUSED)
	}
	return r.mem.Dial(ctx)
}
