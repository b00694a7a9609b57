//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/nstest"
)

// S6: a node that is in nobody's list gets silence, and its user is told what
// that may mean and what the other side must run.
func TestNetnsStranger(t *testing.T) {
	a, b := newHost(t, "a"), newHost(t, "b")
	nstest.Veth(t, a.ns, "10.0.0.1/24", b.ns, "10.0.0.2/24")
	a.nodetun(t, "peer", "add", b.id(t), "--name", "bob", "--addr", "10.0.0.2:41820")
	b.start(t, "--relay", "none")
	b.ns.Nft(t, `table inet count {
  chain out {
    type filter hook output priority 0
    udp sport 41820 ip daddr 10.0.0.1 counter
  }
}
`)
	a.start(t, "--relay", "none")
	eventually(t, 12*time.Second, "status explains the silence", func() error {
		s := a.status(t)
		if !strings.Contains(s.Peers[0].LastError, "no answer: offline, or it has not added you") {
			return fmt.Errorf("last error: %q", s.Peers[0].LastError)
		}
		return nil
	})
	if out := a.nodetun(t, "status"); !strings.Contains(out, "nodetun peer add "+a.id(t)) {
		t.Errorf("status does not say what the other side must run:\n%s", out)
	}
	if out := b.ns.Run(t, "nft", "list", "table", "inet", "count"); !strings.Contains(out, "counter packets 0 ") {
		t.Errorf("b answered a stranger:\n%s", out)
	}
	if s := a.status(t); s.Peers[0].State == "connected" {
		t.Errorf("connected: %+v", s.Peers[0])
	}
}

// A known peer whose rules were taken away is told so, at once.
func TestNetnsDenied(t *testing.T) {
	a, b := pair(t, "--relay", "none")
	a.awaitPath(t, 5*time.Second, "direct")
	_, key := b.sshd(t)
	shell := sshSession(t, a, key, "bob.node.internal")
	b.nodetun(t, "deny", "alice")
	select {
	case <-shell.ended:
		shell.ended <- nil
	case <-time.After(5 * time.Second):
		t.Error("the ssh session goes on")
	}
	if out, err := a.ns.Try("ping", "-c1", "-W2", "bob.node.internal"); err == nil {
		t.Errorf("ping still passes:\n%s", out)
	}
	eventually(t, 5*time.Second, "status says refused", func() error {
		if p := a.status(t).Peers[0]; p.State != "refused" || !strings.Contains(p.LastError, "denied") {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
}

// Another node answers at the address: never connected, and said so.
func TestNetnsWrongNodeID(t *testing.T) {
	a, b, other := newHost(t, "a"), newHost(t, "b"), newHost(t, "other")
	nstest.Veth(t, a.ns, "10.0.0.1/24", b.ns, "10.0.0.2/24")
	a.nodetun(t, "peer", "add", other.id(t), "--name", "bob", "--addr", "10.0.0.2:41820")
	b.nodetun(t, "peer", "add", a.id(t), "--name", "alice", "--allow", "all")
	b.start(t, "--relay", "none")
	a.start(t, "--relay", "none")
	eventually(t, 10*time.Second, "status names the address", func() error {
		p := a.status(t).Peers[0]
		if p.State == "connected" {
			t.Fatalf("connected to another node: %+v", p)
		}
		if !strings.Contains(p.LastError, "no node with this id answers at 10.0.0.2:41820") {
			return fmt.Errorf("last error: %q", p.LastError)
		}
		return nil
	})
}

// Without any network `up` is ready at once and says what is missing.
func TestNetnsNoNetwork(t *testing.T) {
	a := newHost(t, "a")
	began := time.Now()
	a.start(t)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("ready after %v, want at most 2 s", took)
	}
	s := a.status(t)
	if len(s.Health) == 0 {
		t.Error("status does not say what is missing")
	}
	for _, line := range s.Health {
		t.Logf("%s: %s (%s)", line.Level, line.Text, line.Fix)
	}
	a.stop(t)
}

// The default rules let ssh and ping in and nothing else (S15).
func TestNetnsDefaultRules(t *testing.T) {
	a, b := newHost(t, "a"), newHost(t, "b")
	nstest.Veth(t, a.ns, "10.0.0.1/24", b.ns, "10.0.0.2/24")
	befriend(t, a, "10.0.0.1:41820", b, "10.0.0.2:41820")
	a.start(t, "--relay", "none")
	b.start(t, "--relay", "none")
	_, key := b.sshd(t)
	iperfServer(t, b, "5201")
	a.awaitPath(t, 5*time.Second, "direct")
	bob := a.status(t).Peers[0]
	sshWorks(t, a, key, "bob.node.internal")
	pings(t, a, bob.IPv6, bob.IPv4)
	began := time.Now()
	out, err := a.ns.Try("iperf3", "-c", bob.IPv6, "-t", "1", "--connect-timeout", "5000")
	if err == nil {
		t.Errorf("iperf3 passed:\n%s", out)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the refusal took %v", took)
	}
	eventually(t, 2*time.Second, "the log names the command that would allow it", func() error {
		if want := "nodetun allow " + a.id(t) + " tcp/5201"; !strings.Contains(b.up.output(), want) {
			return errors.New(b.up.output())
		}
		return nil
	})
}

// Each start that cannot work says why in one line and leaves files alone.
func TestNetnsBrokenStarts(t *testing.T) {
	a := newHost(t, "a")
	a.id(t)
	state := filepath.Join(a.dir, "state")
	keyFile, peersFile := filepath.Join(state, "secret.key"), filepath.Join(state, "peers.toml")
	key, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}

	cases := []struct {
		name  string
		setup func(t *testing.T)
		want  string
	}{
		{"broken key", func(t *testing.T) { replace(t, keyFile, []byte("not a key\n"), 0o600) }, "secret.key"},
		{"key that others can read", func(t *testing.T) { replace(t, keyFile, key, 0o644) }, "secret.key"},
		{"broken peers", func(t *testing.T) { replace(t, peersFile, []byte("[[peer]\nid = 1\n"), 0o600) }, "peers.toml"},
		{"port in use", func(t *testing.T) {
			a.spawn(t, "nc", "-u", "-l", "0.0.0.0", "41820")
			eventually(t, 5*time.Second, "nc listens", func() error {
				if a.ns.Run(t, "ss", "-Hlun", "sport", "=", ":41820") == "" {
					return errors.New("not yet")
				}
				return nil
			})
		}, "41820"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			tc.setup(t)
			before := contents(t, state)
			out, code := a.try(t, "up", "--relay", "none", "--dns", "none")
			if code != 1 || strings.Count(strings.TrimSpace(out), "\n") != 0 || !strings.Contains(out, tc.want) {
				t.Errorf("exit code %d, want 1 and one line with %q:\n%s", code, tc.want, out)
			}
			t.Log(strings.TrimSpace(out))
			for file, was := range before {
				if is := contents(t, state)[file]; is != was {
					t.Errorf("%s was changed from %q to %q", file, was, is)
				}
			}
		})
	}
}

// Without a TUN device, and without root, `up` says so and stops.
func TestNetnsCannotStart(t *testing.T) {
	nstest.Require(t, "setpriv")
	a := newHost(t, "a")
	a.id(t)
	up := strings.Join(append([]string{binary, "up", "--relay", "none", "--dns", "none"}, a.flags...), " ")
	before := hostState(t, a)
	for _, tc := range []struct{ name, command, want string }{
		// `ip netns exec` gives each command mounts of its own.
		{"no TUN", "mount -t tmpfs none /dev/net && exec " + up, "/dev/net/tun"},
		{"no root", "exec setpriv --reuid 65534 --regid 65534 --clear-groups --bounding-set -all " + binary + " up", "needs root or CAP_NET_ADMIN (try: sudo nodetun up)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := a.spawn(t, "sh", "-c", tc.command)
			code := p.wait(t, 10*time.Second)
			out := strings.TrimSpace(p.output())
			if code != 1 || strings.Contains(out, "\n") || !strings.Contains(out, tc.want) {
				t.Errorf("exit code %d, want 1 and one line with %q:\n%s", code, tc.want, out)
			}
			t.Log(out)
		})
	}
	if after := hostState(t, a); after != before {
		t.Errorf("left behind:\n%s\nwant:\n%s", after, before)
	}
}

// replace writes a file for one test and puts the old one back.
func replace(t *testing.T, path string, data []byte, mode os.FileMode) {
	t.Helper()
	old, oldErr := os.ReadFile(path)
	if err := os.WriteFile(path, data, mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		os.Remove(path)
		if oldErr == nil {
			os.WriteFile(path, old, 0o600)
		}
	})
}

// contents maps the names of a directory's files to what they hold.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		b, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[entry.Name()] = string(b)
	}
	return all
}

// A second daemon on one socket is refused; the first goes on.
func TestNetnsSecondDaemon(t *testing.T) {
	a := newHost(t, "a")
	a.start(t, "--relay", "none")
	out, code := a.try(t, "up", "--relay", "none", "--port", "0", "--tun", "nodetun9")
	if code != 1 || !strings.Contains(out, "already running") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	a.status(t)
}
