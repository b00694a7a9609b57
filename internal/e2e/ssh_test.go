//go:build linux

package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/hosttest"
	"github.com/nodetun/nodetun/internal/nstest"
)

// sshHosts are two hosts with an /etc/ssh of their own, and the key that b takes.
func sshHosts(t *testing.T, args ...string) (a, b *hosttest.Host, server *hosttest.Process, key string) {
	t.Helper()
	a, b = hosttest.New(t, "a"), hosttest.New(t, "b")
	nstest.Veth(t, a.NS, "10.0.0.1/24", b.NS, "10.0.0.2/24")
	a.OwnSSH(t)
	b.OwnSSH(t)
	hosttest.Befriend(t, a, "10.0.0.1:41820", b, "10.0.0.2:41820")
	a.Start(t, append([]string{"--relay", "none"}, args...)...)
	b.Start(t, "--relay", "none")
	server, key = b.Sshd(t)
	a.AwaitPath(t, 5*time.Second, "direct")
	return a, b, server, key
}

// fresh runs a program with a home directory in which there is nothing.
func fresh(t *testing.T, h *hosttest.Host, argv ...string) (string, error) {
	t.Helper()
	return h.NS.Try(append([]string{"env", "-u", "SSH_AUTH_SOCK", "HOME=" + t.TempDir()}, argv...)...)
}

// The first ssh from an empty home directory asks nothing, a server that was installed anew
// makes no warning, and a machine with another key than the one that is vouched for is
// refused (S23).
func TestNetnsSSHConfig(t *testing.T) {
	t.Parallel()
	a, b, server, key := sshHosts(t)
	if out := a.Nodetun(t, "ssh-config", "--install"); !strings.Contains(out, "to undo: sudo nodetun ssh-config --remove") {
		t.Errorf("install says %q", out)
	}
	ssh := func() (string, error) {
		return fresh(t, a, "ssh", "-i", key, "-o", "BatchMode=yes", "root@bob.node.internal", "echo", "hello")
	}
	works := func(when string) {
		t.Helper()
		if out, err := ssh(); err != nil || out != "hello\n" {
			t.Errorf("%s: %v\n%s", when, err, out)
		}
	}
	works("the first time")
	works("the second time")

	server.Signal(15)
	server.Wait(t, 5*time.Second)
	b.NewHostKey(t)
	server, _ = b.Sshd(t)
	works("installed anew")

	// By its NodeID, and what uses ssh.
	if out, err := fresh(t, a, "ssh", "-i", key, "-o", "BatchMode=yes", "root@"+b.ID(t)+".node.internal", "echo", "hello"); err != nil || out != "hello\n" {
		t.Errorf("by NodeID: %v\n%s", err, out)
	}
	file := filepath.Join(a.Dir, "file")
	if err := os.WriteFile(file, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	options := "-i " + key + " -o BatchMode=yes"
	// What is given on the command line is not for the host that is jumped over.
	if err := os.WriteFile(filepath.Join("/etc/netns", a.NS.Name, "ssh/ssh_config.d/99-key.conf"), []byte("IdentityFile "+key+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for what, line := range map[string]string{
		"scp":   "scp -q " + options + " " + file + " root@bob.node.internal:" + filepath.Join(b.Dir, "scp"),
		"sftp":  "echo put " + file + " " + filepath.Join(b.Dir, "sftp") + " | sftp -q -b - " + options + " root@bob.node.internal",
		"jump":  "ssh " + options + " -J root@bob.node.internal root@" + b.ID(t) + ".node.internal true",
		"rsync": "command -v rsync >/dev/null || exit 0; rsync -e 'ssh " + options + "' " + file + " root@bob.node.internal:" + filepath.Join(b.Dir, "rsync"),
		"git":   "command -v git >/dev/null || exit 0; cd " + a.Dir + " && git init -q --bare " + filepath.Join(b.Dir, "repo") + " && GIT_SSH_COMMAND='ssh " + options + "' git ls-remote root@bob.node.internal:" + filepath.Join(b.Dir, "repo"),
	} {
		if out, err := fresh(t, a, "sh", "-c", line); err != nil {
			t.Errorf("%s: %v\n%s", what, err, out)
		}
	}

	// Another machine answers there.
	server.Signal(15)
	server.Wait(t, 5*time.Second)
	other := hosttest.New(t, "c")
	other.OwnSSH(t)
	b.SshdWithKeyOf(t, other)
	if out, err := ssh(); err == nil || !strings.Contains(out, "Host key verification failed") {
		t.Errorf("another key: %v\n%s", err, out)
	}

	a.Nodetun(t, "ssh-config", "--remove")
	a.Nodetun(t, "ssh-config", "--remove") // no harm
	if _, err := os.Stat(filepath.Join("/etc/netns", a.NS.Name, "ssh/ssh_config.d/20-nodetun.conf")); err == nil {
		t.Error("the file is there still")
	}
}

// `nodetun ssh` and `nodetun nc` need neither configuration nor names that resolve.
func TestNetnsSSHCommand(t *testing.T) {
	t.Parallel()
	a, b, _, key := sshHosts(t, "--dns", "none")
	for _, target := range []string{"root@bob", "root@" + b.ID(t), "root@bob.node.internal"} {
		argv := append([]string{hosttest.Program(), "ssh"}, a.Flags...)
		out, err := fresh(t, a, append(argv, "--", "-i", key, "-o", "BatchMode=yes", target, "echo", "hello")...)
		if err != nil || out != "hello\n" {
			t.Errorf("%s: %v\n%s", target, err, out)
		}
	}
	argv := append([]string{"sh", "-c", `sleep 1 | "$@"`, "sh", hosttest.Program(), "nc", "bob", "22"}, a.Flags...)
	if out, _ := a.NS.Try(argv...); !regexp.MustCompile(`^SSH-2.0-`).MatchString(out) {
		t.Errorf("nc: %q", out)
	}
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"nc", "bob", "23"}, 4, "nodetun: bob port 23: "},
		{[]string{"nc", "bob", "x"}, 2, `"x" is no port`},
		{[]string{"nc", "nobody", "22"}, 1, "no such peer"},
		{[]string{"known-hosts", "example.org"}, 1, `"example.org" names no other node`},
		{[]string{"known-hosts", "alice.node.internal"}, 1, "names no other node"},
	} {
		if out, code := a.Try(t, tc.args...); code != tc.code || !strings.Contains(out, tc.want) {
			t.Errorf("%v: exit %d\n%s", tc.args, code, out)
		}
	}
	// S23: only who may reach the ssh server learns its keys.
	if out, code := b.Try(t, "known-hosts", "alice.node.internal"); code != 0 || !strings.HasPrefix(out, "alice.node.internal ssh-ed25519 ") {
		t.Errorf("exit %d: %s", code, out)
	}
	a.Nodetun(t, "deny", "bob", "ssh")
	b.Stop(t)
	b.Start(t, "--relay", "none")
	hosttest.Eventually(t, 5*time.Second, "connected", func() error { return b.OnPath(t, "direct") })
	if out, code := b.Try(t, "known-hosts", "alice.node.internal"); code != 1 || !strings.Contains(out, "vouches for no ssh host key") {
		t.Errorf("exit %d: %s", code, out)
	}
}
