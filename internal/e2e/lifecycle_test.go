//go:build linux

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// hostState is what nodetun may change on a host.
func hostState(t *testing.T, h *host) string {
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
		all.WriteString(strings.Join(argv, " ") + "\n" + h.ns.Run(t, argv...))
	}
	return all.String()
}

// `down` and ^C leave no link, route, rule or DNS change; nor does a start
// after kill -9, once it is ended properly.
func TestNetnsDownLeavesNothing(t *testing.T) {
	a, b := pairStopped(t)
	before := hostState(t, a)
	b.start(t, "--relay", "none")

	a.start(t, "--relay", "none")
	if hostState(t, a) == before {
		t.Fatal("up changed nothing: the test sees nothing")
	}
	a.nodetun(t, "down")
	a.up.wait(t, 10*time.Second)
	if after := hostState(t, a); after != before {
		t.Errorf("after down:\n%s\nwant:\n%s", after, before)
	}
	if out, code := a.try(t, "status"); code != 3 || !strings.Contains(out, "not running") {
		t.Errorf("status: exit code %d:\n%s", code, out)
	}
	a.nodetun(t, "down") // succeeds when nothing runs

	a.start(t, "--relay", "none")
	a.up.signal(syscall.SIGKILL)
	a.up.wait(t, 10*time.Second)
	a.nodetun(t, "down")
	if after := hostState(t, a); after != before {
		t.Errorf("after kill -9 and down:\n%s\nwant:\n%s", after, before)
	}

	a.start(t, "--relay", "none")
	a.up.signal(syscall.SIGKILL)
	a.up.wait(t, 10*time.Second)
	a.start(t, "--relay", "none")
	a.stop(t)
	if after := hostState(t, a); after != before {
		t.Errorf("after kill -9, up and ^C:\n%s\nwant:\n%s", after, before)
	}
}

// pairStopped is pair before `up`.
func pairStopped(t *testing.T) (a, b *host) {
	t.Helper()
	a, b = newHost(t, "a"), newHost(t, "b")
	joinHosts(t, a, b)
	return a, b
}

// S4: after kill -9 of a daemon and a new start, TCP to it works within 2 s.
func TestNetnsRestart(t *testing.T) {
	a, b := pair(t, "--relay", "none")
	_, key := b.sshd(t)
	a.awaitPath(t, 5*time.Second, "direct")
	sshWorks(t, a, key, "bob.node.internal")

	b.up.signal(syscall.SIGKILL)
	b.up.wait(t, 10*time.Second)
	b.start(t, "--relay", "none")
	began := time.Now()
	sshWorks(t, a, key, "bob.node.internal")
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("ssh after the restart took %v, want at most 2 s", took)
	}
}

// `up --detach` returns when the tunnel is up, and `down` ends it.
func TestNetnsDetach(t *testing.T) {
	a := newHost(t, "a")
	before := hostState(t, a)
	a.nodetun(t, "up", "--detach", "--relay", "none", "--dns", "file")
	a.status(t)
	a.nodetun(t, "down")
	if after := hostState(t, a); after != before {
		t.Errorf("after down:\n%s\nwant:\n%s", after, before)
	}
	if _, err := os.Stat(filepath.Join(a.dir, "run", "nodetun.sock")); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}
