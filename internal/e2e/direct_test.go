//go:build linux

package e2e

import (
	"fmt"
	"strings"
	"syscall"
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

// Prometheus finds at metrics_addr what a node did, and at a relay's what that did.
func TestNetnsMetrics(t *testing.T) {
	t.Parallel()
	r := startRelay(t, "--metrics-addr", "127.0.0.1:9090")
	a, b := hosttest.New(t, "a"), hosttest.New(t, "b")
	r.plug(t, a, "10.0.0.1/24")
	r.plug(t, b, "10.0.0.2/24")
	hosttest.Befriend(t, a, "10.0.0.1:41820", b, "10.0.0.2:41820", "--allow", "all")
	a.Configure(t, "metrics_addr = \"127.0.0.1:9091\"\nmetrics_profiles = true\n")
	a.Start(t, "--relay", r.url)
	b.Start(t, "--relay", r.url)
	a.AwaitPath(t, 10*time.Second, "direct")
	bob := a.Status(t).Peers[0]
	a.NS.Run(t, "ping", "-c", "3", "-i", "0.2", bob.IPv6)
	for _, want := range []struct{ ns, url, text string }{
		{"node", "http://127.0.0.1:9091/metrics", "\nnodetun_peers{state=\"connected\"} 1\n"},
		{"node", "http://127.0.0.1:9091/metrics", "\nnodetun_paths{path=\"direct\"} 1\n"},
		{"node", "http://127.0.0.1:9091/metrics", "\nnodetun_sent_bytes_total{carrier=\"datagram\"} 312\n"},
		{"node", "http://127.0.0.1:9091/metrics", "\nnodetun_relay_home{relay=\"" + r.url + "\"} 1\n"},
		{"node", "http://127.0.0.1:9091/metrics", "\nmagicsock_path_changes_total{reason=\"pong\"} "},
		{"node", "http://127.0.0.1:9091/debug/pprof/goroutine?debug=1", "goroutine profile"},
		{"relay", "http://127.0.0.1:9090/metrics", "\nrelayserver_clients 2\n"},
		{"relay", "http://127.0.0.1:9090/metrics", "\nrelayserver_accepts_total 2\n"},
	} {
		ns := a.NS
		if want.ns == "relay" {
			ns = r.NS
		}
		if out := ns.Run(t, "curl", "-sS", want.url); !strings.Contains(out, want.text) {
			t.Errorf("%s of the %s has no %q:\n%s", want.url, want.ns, want.text, out)
		}
	}
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

	// The relay restarts, as after an update of its program.
	r.process.Signal(syscall.SIGTERM)
	r.process.Wait(t, 5*time.Second)
	r.run(t)
	before, _ := shell.State()
	hosttest.Eventually(t, 5*time.Second, "output goes on", func() error {
		if now, _ := shell.State(); now < before+10 {
			return fmt.Errorf("%d lines", now-before)
		}
		return nil
	})
	shell.StillRuns(t, 2*time.Second)
}

// Nothing is known but each other's NodeID and one relay: the first packet goes
// through it, and the two find each other's addresses.
func TestNetnsRelayAlone(t *testing.T) {
	t.Parallel()
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
