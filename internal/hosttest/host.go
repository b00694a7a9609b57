//go:build linux

package hosttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/nstest"
)

// Host is one machine: a namespace with a state directory of its own.
type Host struct {
	// NS is the machine's network, Dir holds its state, socket, keys and logs.
	NS  *nstest.NS
	Dir string
	// Flags go to each call of nodetun on this host: where its files are.
	Flags []string
	// Up is the running daemon, after Start.
	Up *Process

	hostKey string // of its ssh server, a file
}

// Status is the part of `nodetun status --json` that tests look at.
type Status struct {
	Self struct {
		ID, Name, FQDN, IPv6, IPv4 string
		Relay, NAT, DNS            string
		DirectAddresses            []string `json:"direct_addresses"`
	}
	Peers  []Peer
	Health []struct{ Level, Text, Fix string }
}

// Peer is a row of Status.
type Peer struct {
	ID, Name, FQDN, IPv6, IPv4 string
	State, Path, Endpoint      string
	LastError                  string `json:"last_error"`
	Flows                      int
}

// etcNetns keeps tests that run side by side from making a directory in /etc/netns while that
// goes.
var etcNetns sync.Mutex

// New makes a machine without any cable. The name shows up in that of its
// namespace and must be short.
func New(t testing.TB, name string) *Host {
	t.Helper()
	ns := nstest.New(t, name)
	// A file of its own in place of /etc/resolv.conf, as `ip netns` offers.
	etc := filepath.Join("/etc/netns", ns.Name)
	etcNetns.Lock()
	err := os.MkdirAll(etc, 0o755)
	etcNetns.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		etcNetns.Lock()
		defer etcNetns.Unlock()
		_ = os.RemoveAll(etc)
		_ = os.Remove("/etc/netns") // fails unless empty
	})
	if err := os.WriteFile(filepath.Join(etc, "resolv.conf"), []byte("# empty\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	return &Host{NS: ns, Dir: dir, Flags: []string{
		"--state-dir", filepath.Join(dir, "state"),
		"--socket", filepath.Join(dir, "run", "nodetun.sock"),
		"--config", filepath.Join(dir, "nodetun.toml"),
	}}
}

// Configure writes the host's settings.
func (h *Host) Configure(t testing.TB, toml string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(h.Dir, "nodetun.toml"), []byte(toml), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Command prepares `nodetun ARGS` on the host.
func (h *Host) Command(ctx context.Context, args ...string) *exec.Cmd {
	argv := append([]string{program}, args...)
	return h.NS.Cmd(ctx, append(argv, h.Flags...)...)
}

// Try runs `nodetun ARGS`, at most two minutes, and returns both outputs and
// the exit code.
func (h *Host) Try(t testing.TB, args ...string) (out string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	b, err := h.Command(ctx, args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("nodetun %v: %v", args, err)
	}
	if exit != nil {
		code = exit.ExitCode()
	}
	return string(b), code
}

// Nodetun runs `nodetun ARGS`, which must succeed.
func (h *Host) Nodetun(t testing.TB, args ...string) string {
	t.Helper()
	out, code := h.Try(t, args...)
	if code != 0 {
		t.Fatalf("nodetun %s: exit code %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// ID returns the host's NodeID, making its key if there is none.
func (h *Host) ID(t testing.TB) string {
	t.Helper()
	return strings.TrimSpace(h.Nodetun(t, "id", "--create"))
}

// Start runs `nodetun up` with the given flags and returns once it is ready.
// The names of peers go to the host's own resolv.conf, unless args say
// otherwise.
func (h *Host) Start(t testing.TB, args ...string) {
	t.Helper()
	h.Up = h.Spawn(t, append([]string{program, "up", "--dns", "file"}, append(args, h.Flags...)...)...)
	Eventually(t, patience, "nodetun up is ready", func() error {
		if h.Up.Exited() {
			t.Fatalf("nodetun up ended:\n%s", h.Up.Output())
		}
		out, code := h.Try(t, "status", "--json")
		if code != 0 {
			return fmt.Errorf("status: exit code %d: %s", code, out)
		}
		return nil
	})
}

// Stop ends the daemon as ^C does and waits for it.
func (h *Host) Stop(t testing.TB) {
	t.Helper()
	h.Up.Signal(syscall.SIGINT)
	h.Up.Wait(t, patience)
}

// Status asks the daemon for its status.
func (h *Host) Status(t testing.TB) Status {
	t.Helper()
	var s Status
	if err := json.Unmarshal([]byte(h.Nodetun(t, "status", "--json")), &s); err != nil {
		t.Fatalf("status --json: %v", err)
	}
	return s
}

// OnPath returns nil if the host's only peer is connected by the given path,
// and else what there is instead.
func (h *Host) OnPath(t testing.TB, path string) error {
	t.Helper()
	s := h.Status(t)
	if len(s.Peers) != 1 || s.Peers[0].State != "connected" || s.Peers[0].Path != path {
		return fmt.Errorf("peers: %+v", s.Peers)
	}
	return nil
}

// AwaitPath waits until the only peer is reached by the given path.
func (h *Host) AwaitPath(t testing.TB, within time.Duration, path string) {
	t.Helper()
	began := time.Now()
	Eventually(t, within, "path is "+path, func() error { return h.OnPath(t, path) })
	t.Logf("path %s after %v", path, time.Since(began).Round(10*time.Millisecond))
}

// Befriend makes two hosts peers of each other, called alice (a) and bob (b).
// aAddr is a's ip:port as b reaches it, bAddr b's as a does; empty ones are left
// out. extra goes to both `peer add`.
func Befriend(t testing.TB, a *Host, aAddr string, b *Host, bAddr string, extra ...string) {
	t.Helper()
	add := func(on, other *Host, name, addr string) {
		args := append([]string{"peer", "add", other.ID(t), "--name", name}, extra...)
		if addr != "" {
			args = append(args, "--addr", addr)
		}
		on.Nodetun(t, args...)
	}
	add(a, b, "bob", bAddr)
	add(b, a, "alice", aAddr)
}
