//go:build linux

package hosttest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/nstest"
)

// Internet is the public network: one cable for all, with two relays on it that
// answer STUN too.
type Internet struct {
	*Host
	// Relays run at RelayURL(0) and RelayURL(1).
	Relays [2]*Process
	taken  int // public addresses given out
}

// Public addresses of the first and second relay, and of their STUN servers.
const (
	relayPort = "3340"
	STUN0     = "203.0.113.1:3478"
	STUN1     = "203.0.113.2:3478"
)

// RelayURL is the address of a relay of the Internet, 0 or 1.
func RelayURL(n int) string { return fmt.Sprintf("http://203.0.113.%d:%s/", n+1, relayPort) }

// NewInternet makes one whose relays do not run yet.
func NewInternet(t testing.TB) *Internet {
	t.Helper()
	n := &Internet{Host: New(t, "inet")}
	n.NS.Run(t, "ip", "link", "add", "br0", "type", "bridge")
	n.NS.Run(t, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv6.conf.br0.accept_dad=0",
		"net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.br0.send_redirects=0")
	for _, addr := range []string{"203.0.113.1/24", "203.0.113.2/24", "2001:db8::1/64", "2001:db8::2/64"} {
		n.NS.Run(t, "ip", "addr", "add", addr, "dev", "br0")
	}
	n.NS.Run(t, "ip", "link", "set", "br0", "up")
	return n
}

// StartRelay runs relay 0 or 1, which must not be running, and waits until it
// listens.
func (n *Internet) StartRelay(t testing.TB, i int) {
	t.Helper()
	at := fmt.Sprintf("203.0.113.%d:", i+1)
	n.Relays[i] = n.Spawn(t, program, "relay", "--dev", "--addr", at+relayPort, "--stun-addr", at+"3478")
	Eventually(t, 5*time.Second, "the relay listens", func() error {
		if n.Relays[i].Exited() {
			t.Fatalf("the relay ended:\n%s", n.Relays[i].Output())
		}
		out := n.NS.Run(t, "ss", "-Hltn", "src", fmt.Sprintf("203.0.113.%d:%s", i+1, relayPort))
		if out == "" {
			return errors.New("no listener")
		}
		return nil
	})
}

// address returns the last part of the next free public address.
func (n *Internet) address() int {
	n.taken++
	return 9 + n.taken
}

// plug puts a cable between the public network and ns, with the public IPv4
// address that ends in part.
func (n *Internet) plug(t testing.TB, ns *nstest.NS, part int) Cable {
	t.Helper()
	c := Cable{NS: ns, Addr: fmt.Sprintf("203.0.113.%d", part), far: n.NS}
	c.Dev, c.port = nstest.Veth(t, ns, "", n.NS, "")
	n.NS.Run(t, "ip", "link", "set", c.port, "master", "br0")
	ns.Run(t, "ip", "addr", "add", c.Addr+"/24", "dev", c.Dev)
	ns.Run(t, "ip", "route", "add", "default", "via", "203.0.113.1")
	return c
}

// Join gives the host a public address of its own, without anything between
// it and the rest of the world.
func (n *Internet) Join(t testing.TB, h *Host) Cable {
	t.Helper()
	return n.plug(t, h.NS, n.address())
}
