//go:build linux

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/hosttest"
)

// Two hosts on one cable, no relay: everything a user does goes direct.
func TestNetnsDirect(t *testing.T) {
	a, b := pair(t, "--relay", "none")
	server, key := b.Sshd(t)
	a.AwaitPath(t, 5*time.Second, "direct")

	bob := a.Status(t).Peers[0]
	t.Run("ssh", func(t *testing.T) {
		a.SSHWorks(t, key, bob.ID+".node.internal", "bob.node.internal", bob.IPv6, bob.IPv4)
		alice := b.Status(t).Peers[0]
		for _, addr := range []string{alice.IPv6, alice.IPv4} {
			if !strings.Contains(server.Output(), "from "+addr+" ") {
				t.Errorf("sshd does not name the caller's overlay address %s:\n%s", addr, server.Output())
			}
		}
	})
	traffic(t, a, b)
}

// The path is gone and comes back: UDP blocked means relay, unblocked direct,
// while an ssh session and an iperf3 go on.
func TestNetnsRelay(t *testing.T) {
	r := startRelay(t)
	a, b := hosttest.New(t, "a"), hosttest.New(t, "b")
	r.plug(t, a, "10.0.0.1/24")
	r.plug(t, b, "10.0.0.2/24")
	hosttest.Befriend(t, a, "10.0.0.1:41820", b, "10.0.0.2:41820", "--allow", "all")
	const block = `table inet block {
  chain out {
    type filter hook output priority 0
    meta l4proto udp ip daddr 10.0.0.0/24 drop
  }
}
`
	a.NS.Nft(t, block)
	b.NS.Nft(t, block)
	a.Start(t, "--relay", r.url)
	b.Start(t, "--relay", r.url)
	_, key := b.Sshd(t)
	a.AwaitPath(t, 10*time.Second, "relay")

	bob := a.Status(t).Peers[0]
	a.SSHWorks(t, key, bob.ID+".node.internal", bob.IPv4)
	traffic(t, a, b)

	shell := a.SSHSession(t, key, bob.IPv6, 100*time.Millisecond)
	b.IperfServer(t, "5299")
	load := a.Spawn(t, "iperf3", "-c", bob.IPv6, "-p", "5299", "-t", "15", "-b", "50M", "--connect-timeout", "5000")

	a.NS.Run(t, "nft", "delete", "table", "inet", "block")
	b.NS.Run(t, "nft", "delete", "table", "inet", "block")
	a.AwaitPath(t, 10*time.Second, "direct")
	b.AwaitPath(t, 10*time.Second, "direct")
	shell.StillRuns(t, time.Second)

	a.NS.Nft(t, block)
	b.NS.Nft(t, block)
	a.AwaitPath(t, 10*time.Second, "relay")
	if code := load.Wait(t, 30*time.Second); code != 0 {
		t.Errorf("iperf3 ended with %d:\n%s", code, load.Output())
	}
	shell.StillRuns(t, 4*time.Second)
}

// Nothing is known but each other's NodeID and one relay: the first packet goes
// through it, and the two find each other's addresses.
func TestNetnsRelayAlone(t *testing.T) {
	r := startRelay(t)
	a, b := hosttest.New(t, "a"), hosttest.New(t, "b")
	r.plug(t, a, "10.0.0.1/24")
	r.plug(t, b, "10.0.0.2/24")
	hosttest.Befriend(t, a, "", b, "")
	a.Start(t, "--relay", r.url)
	b.Start(t, "--relay", r.url)
	_, key := b.Sshd(t)
	a.SSHWorks(t, key, "bob.node.internal")
	a.AwaitPath(t, 10*time.Second, "direct")
	b.AwaitPath(t, 10*time.Second, "direct")
}
