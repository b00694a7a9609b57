//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/hosttest"
	"github.com/nodetun/nodetun/internal/nstest"
)

// hostState is what nodetun may change on a host.
func hostState(t *testing.T, h *hosttest.Host) string {
	t.Helper()
	var all strings.Builder
	for _, argv := range [][]string{
		{"ip", "-br", "link"},
		{"ip", "-br", "addr"},
		{"ip", "route"},
		{"ip", "-6", "route"},
		{"ip", "rule"},
		{"ip", "-6", "rule"},
		{"cat", "/etc/resolv.conf"},
	} {
		all.WriteString(strings.Join(argv, " ") + "\n" + h.NS.Run(t, argv...))
	}
	return all.String()
}

// `down` and ^C leave no link, route, rule or DNS change; nor does a start
// after kill -9, once it is ended properly.
func TestNetnsDownLeavesNothing(t *testing.T) {
	t.Parallel()
	a, b := pairStopped(t)
	before := hostState(t, a)
	b.Start(t, "--relay", "none")

	a.Start(t, "--relay", "none")
	if hostState(t, a) == before {
		t.Fatal("up changed nothing: the test sees nothing")
	}
	a.Nodetun(t, "down")
	a.Up.Wait(t, 10*time.Second)
	if after := hostState(t, a); after != before {
		t.Errorf("after down:\n%s\nwant:\n%s", after, before)
	}
	if out, code := a.Try(t, "status"); code != 3 || !strings.Contains(out, "not running") {
		t.Errorf("status: exit code %d:\n%s", code, out)
	}
	a.Nodetun(t, "down") // succeeds when nothing runs

	a.Start(t, "--relay", "none")
	a.Up.Signal(syscall.SIGKILL)
	a.Up.Wait(t, 10*time.Second)
	a.Nodetun(t, "down")
	if after := hostState(t, a); after != before {
		t.Errorf("after kill -9 and down:\n%s\nwant:\n%s", after, before)
	}

	a.Start(t, "--relay", "none")
	a.Up.Signal(syscall.SIGKILL)
	a.Up.Wait(t, 10*time.Second)
	a.Start(t, "--relay", "none")
	a.Stop(t)
	if after := hostState(t, a); after != before {
		t.Errorf("after kill -9, up and ^C:\n%s\nwant:\n%s", after, before)
	}
}

// pairStopped is pair before `up`.
func pairStopped(t *testing.T) (a, b *hosttest.Host) {
	t.Helper()
	a, b = hosttest.New(t, "a"), hosttest.New(t, "b")
	joinHosts(t, a, b)
	return a, b
}

// S4: after kill -9 of a daemon and a new start, TCP to it works within 2 s.
func TestNetnsRestart(t *testing.T) {
	t.Parallel()
	a, b := pair(t, "--relay", "none")
	_, key := b.Sshd(t)
	a.AwaitPath(t, 5*time.Second, "direct")
	a.SSHWorks(t, key, "bob.node.internal")

	b.Up.Signal(syscall.SIGKILL)
	b.Up.Wait(t, 10*time.Second)
	b.Start(t, "--relay", "none")
	began := time.Now()
	a.SSHWorks(t, key, "bob.node.internal")
	if took := time.Since(began); took > nstest.Slack*2*time.Second {
		t.Errorf("ssh after the restart took %v", took)
	}
}

// `up --detach` returns when the tunnel is up, and `down` ends it.
func TestNetnsDetach(t *testing.T) {
	t.Parallel()
	a := hosttest.New(t, "a")
	before := hostState(t, a)
	a.Nodetun(t, "up", "--detach", "--relay", "none", "--dns", "file")
	a.Status(t)
	a.Nodetun(t, "down")
	if after := hostState(t, a); after != before {
		t.Errorf("after down:\n%s\nwant:\n%s", after, before)
	}
	if _, err := os.Stat(filepath.Join(a.Dir, "run", "nodetun.sock")); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// The address that the node is bound to goes away and comes back, as on a laptop that
// changes its network: what was open goes on.
func TestNetnsBoundAddressGoes(t *testing.T) {
	t.Parallel()
	a, b := pairStopped(t)
	a.Start(t, "--relay", "none", "--bind", "10.0.0.1")
	b.Start(t, "--relay", "none")
	_, key := b.Sshd(t)
	bob := a.Status(t).Peers[0]
	shell := a.SSHSession(t, key, bob.IPv6, 100*time.Millisecond)

	dev := strings.Fields(a.NS.Run(t, "ip", "-o", "addr", "show", "to", "10.0.0.1"))[1]
	a.NS.Run(t, "ip", "addr", "del", "10.0.0.1/24", "dev", dev)
	const said = "no UDP socket on 10.0.0.1: the address is not there"
	health := func() string { return a.Nodetun(t, "status") }
	hosttest.Eventually(t, 5*time.Second, "status tells of the socket", func() error {
		if out := health(); !strings.Contains(out, said) {
			return errors.New(out)
		}
		return nil
	})
	a.NS.Run(t, "ip", "addr", "add", "10.0.0.1/24", "dev", dev)
	before, _ := shell.State()
	hosttest.Eventually(t, 10*time.Second, "the running session goes on", func() error {
		if now, _ := shell.State(); now < before+20 {
			return fmt.Errorf("%d lines, then %d", before, now)
		}
		return nil
	})
	if out := health(); strings.Contains(out, said) {
		t.Error(out)
	}
	if err := shell.Alive(); err != nil {
		t.Error(err)
	}
}

// A node whose control socket somebody removed is ended by `down` all the same, and
// nothing of the host is taken from under it while it lives.
func TestNetnsDownWithoutSocket(t *testing.T) {
	t.Parallel()
	a, _ := pairStopped(t)
	before := hostState(t, a)
	a.Start(t, "--relay", "none", "--dns", "file")
	socket := ""
	for i, flag := range a.Flags {
		if flag == "--socket" {
			socket = a.Flags[i+1]
		}
	}
	if err := os.Remove(socket); err != nil {
		t.Fatal(err)
	}
	a.Nodetun(t, "down")
	a.Up.Wait(t, 10*time.Second)
	if after := hostState(t, a); after != before {
		t.Errorf("after down:\n%s\nwant:\n%s", after, before)
	}
}

// Whoever reads the output of a node, or of a relay, goes away: it lives on.
func TestNetnsOutputIsNotRead(t *testing.T) {
	t.Parallel()
	a, _ := pairStopped(t)
	r := startRelay(t)
	for name, argv := range map[string][]string{
		"node":  append(append([]string{hosttest.Program(), "up"}, a.Flags...), "--relay", "none", "--log-level", "debug"),
		"relay": {hosttest.Program(), "relay", "--dev", "--addr", ":3341", "--stun-addr", ":3479", "--log-level", "debug"},
	} {
		h := map[string]*hosttest.Host{"node": a, "relay": r.Host}[name]
		reader, writer, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd := h.NS.Cmd(t.Context(), argv...)
		cmd.Stdout, cmd.Stderr = writer, writer
		reader.Close() // before it writes its first line
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		writer.Close()
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		hosttest.Eventually(t, 10*time.Second, "the "+name+" answers", func() error {
			select {
			case err := <-ended:
				t.Fatalf("the %s ended: %v", name, err)
			default:
			}
			if name == "relay" {
				_, err := h.NS.Try("curl", "-sf", "http://127.0.0.1:3341/healthz")
				return err
			}
			if out, code := a.Try(t, "status"); code != 0 {
				return errors.New(out)
			}
			return nil
		})
		cmd.Process.Signal(syscall.SIGTERM)
		if err := <-ended; err != nil {
			t.Errorf("the %s: %v", name, err)
		}
	}
}

// A dry run changes nothing, and tells what a start then does.
func TestNetnsDryRun(t *testing.T) {
	t.Parallel()
	a := hosttest.New(t, "a")
	a.NS.Run(t, "ip", "link", "set", "lo", "up")
	look := func() string {
		conf, err := os.ReadFile(filepath.Join("/etc/netns", a.NS.Name, "resolv.conf"))
		if err != nil {
			t.Fatal(err)
		}
		return a.NS.Run(t, "ip", "addr") + a.NS.Run(t, "ip", "-4", "route", "show", "table", "all") + a.NS.Run(t, "ip", "-6", "route", "show", "table", "all") + string(conf)
	}
	before := look()
	if out := a.Nodetun(t, "up", "--dry-run"); !strings.Contains(out, "make the key of this node in ") || !strings.Contains(out, "add marked lines to /etc/resolv.conf") {
		t.Errorf("the first time:\n%s", out)
	}
	if files, err := os.ReadDir(a.Dir); err != nil || len(files) > 0 {
		t.Errorf("files %v, %v", files, err)
	}
	a.ID(t)
	out := a.Nodetun(t, "up", "--dry-run", "--relay", "none")
	if after := look(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	a.Start(t, "--relay", "none", "--discovery", "none")
	self := a.Status(t).Self
	if want := "give it the addresses " + self.IPv6 + " " + self.IPv4 + "\n"; !strings.Contains(out, want) {
		t.Errorf("no line %q:\n%s", want, out)
	}
	for route := range strings.Lines(a.NS.Run(t, "ip", "-4", "route", "show", "dev", "nodetun0") + a.NS.Run(t, "ip", "-6", "route", "show", "dev", "nodetun0", "proto", "static")) {
		if want := "route " + strings.Fields(route)[0] + " to it\n"; !strings.Contains(out, want) {
			t.Errorf("no line %q:\n%s", want, out)
		}
	}
	a.Stop(t)
}
