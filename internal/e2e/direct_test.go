//go:build linux

package e2e

import (
	"strings"
	"testing"
	"time"
)

// Two hosts on one cable, no relay: everything a user does goes direct.
func TestNetnsDirect(t *testing.T) {
	a, b := pair(t, "--relay", "none")
	server, key := b.sshd(t)
	a.awaitPath(t, 5*time.Second, "direct")

	bob := a.status(t).Peers[0]
	t.Run("ssh", func(t *testing.T) {
		sshWorks(t, a, key, bob.ID+".node.internal", "bob.node.internal", bob.IPv6, bob.IPv4)
		alice := b.status(t).Peers[0]
		for _, addr := range []string{alice.IPv6, alice.IPv4} {
			if !strings.Contains(server.output(), "from "+addr+" ") {
				t.Errorf("sshd does not name the caller's overlay address %s:\n%s", addr, server.output())
			}
		}
	})
	traffic(t, a, b)
}

// The path is gone and comes back: UDP blocked means relay, unblocked direct,
// while an ssh session and an iperf3 go on.
func TestNetnsRelay(t *testing.T) {
	r := startRelay(t)
	a, b := newHost(t, "a"), newHost(t, "b")
	r.plug(t, a, "10.0.0.1/24")
	r.plug(t, b, "10.0.0.2/24")
	befriend(t, a, "10.0.0.1:41820", b, "10.0.0.2:41820", "--allow", "all")
	const block = `table inet block {
  chain out {
    type filter hook output priority 0
    meta l4proto udp ip daddr 10.0.0.0/24 drop
  }
}
`
	a.ns.Nft(t, block)
	b.ns.Nft(t, block)
	a.start(t, "--relay", r.url)
	b.start(t, "--relay", r.url)
	_, key := b.sshd(t)
	a.awaitPath(t, 10*time.Second, "relay")

	bob := a.status(t).Peers[0]
	sshWorks(t, a, key, bob.ID+".node.internal", bob.IPv4)
	traffic(t, a, b)

	shell := sshSession(t, a, key, bob.IPv6)
	iperfServer(t, b, "5299")
	load := a.spawn(t, "iperf3", "-c", bob.IPv6, "-p", "5299", "-t", "15", "-b", "50M", "--connect-timeout", "5000")

	a.ns.Run(t, "nft", "delete", "table", "inet", "block")
	b.ns.Run(t, "nft", "delete", "table", "inet", "block")
	a.awaitPath(t, 10*time.Second, "direct")
	b.awaitPath(t, 10*time.Second, "direct")
	shell.stillRuns(t, time.Second)

	a.ns.Nft(t, block)
	b.ns.Nft(t, block)
	a.awaitPath(t, 10*time.Second, "relay")
	if code := load.wait(t, 30*time.Second); code != 0 {
		t.Errorf("iperf3 ended with %d:\n%s", code, load.output())
	}
	shell.stillRuns(t, 4*time.Second)
}

// Nothing is known but each other's NodeID and one relay: the first packet goes
// through it, and the two find each other's addresses.
func TestNetnsRelayAlone(t *testing.T) {
	r := startRelay(t)
	a, b := newHost(t, "a"), newHost(t, "b")
	r.plug(t, a, "10.0.0.1/24")
	r.plug(t, b, "10.0.0.2/24")
	befriend(t, a, "", b, "")
	a.start(t, "--relay", r.url)
	b.start(t, "--relay", r.url)
	_, key := b.sshd(t)
	sshWorks(t, a, key, "bob.node.internal")
	a.awaitPath(t, 10*time.Second, "direct")
	b.awaitPath(t, 10*time.Second, "direct")
}
