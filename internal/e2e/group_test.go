//go:build linux

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodetun/nodetun/internal/hosttest"
)

// Members of the group may ask, and no more unless the settings say so; others may not (S25).
func TestNetnsGroup(t *testing.T) {
	t.Parallel()
	const gid = "4242"
	h := hosttest.New(t, "a")
	groups, err := os.ReadFile("/etc/group")
	if err != nil {
		t.Fatal(err)
	}
	own := string(groups) + "nodetun:x:" + gid + ":\n"
	if err := os.WriteFile(filepath.Join("/etc/netns", h.NS.Name, "group"), []byte(own), 0o644); err != nil {
		t.Fatal(err)
	}
	for dir := h.Dir; len(dir) > len(os.TempDir()); dir = filepath.Dir(dir) { // the way to the socket
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	as := func(group string, args ...string) (string, int) {
		t.Helper()
		argv := append([]string{"setpriv", "--reuid", "65534", "--regid", "65534", "--groups", group, hosttest.Program()}, append(args, h.Flags...)...)
		out, err := h.NS.Try(argv...)
		code := 0
		if exit, ok := err.(*exec.ExitError); ok {
			code = exit.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		return out, code
	}
	peer := "qe4xodvipulv6vvdkrtmgtd6ztfy3curwtxdpis56yhvxd6jwoka"
	for _, trust := range []bool{false, true} {
		if trust {
			h.Configure(t, "group_may_trust = true\n")
		}
		h.Start(t, "--relay", "none", "--discovery", "none")
		if out, code := as(gid, "status"); code != 0 || !strings.Contains(out, "no peers") {
			t.Errorf("a member, status: exit %d\n%s", code, out)
		}
		out, code := as(gid, "peer", "add", peer)
		if !trust && (code != 1 || !strings.Contains(out, "that takes root (try: sudo nodetun …; the setting group_may_trust lets the group nodetun do it)")) {
			t.Errorf("a member, peer add: exit %d\n%s", code, out)
		}
		if trust && (code != 0 || !strings.Contains(out, "added")) {
			t.Errorf("a member that may, peer add: exit %d\n%s", code, out)
		}
		if out, code := as("65534", "status"); code != 1 || !strings.Contains(out, "nodetun: not allowed to ask the node (try: sudo nodetun …; to do without sudo: sudo usermod -aG nodetun nobody, and log in again)") {
			t.Errorf("somebody else: exit %d\n%s", code, out)
		}
		h.Stop(t)
	}
}
