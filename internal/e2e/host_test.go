//go:build linux

package e2e

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

// binary is the program under test, built once by TestMain.
var binary string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Getuid() != 0 {
		return m.Run() // every test skips and says why
	}
	dir, err := os.MkdirTemp("", "nodetun-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // for the test without root
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	binary = filepath.Join(dir, "nodetun")
	build := exec.Command("go", "build", "-o", binary, "github.com/nodetun/nodetun/cmd/nodetun")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build nodetun: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// host is one machine: a namespace with a state directory of its own.
type host struct {
	ns    *nstest.NS
	dir   string // state, socket, keys, logs
	flags []string
	up    *process
}

// status is the part of `nodetun status --json` that tests look at.
type status struct {
	Self struct {
		ID, Name, FQDN, IPv6, IPv4 string
		Relay                      string
		DirectAddresses            []string `json:"direct_addresses"`
	}
	Peers []struct {
		ID, Name, FQDN, IPv6, IPv4 string
		State, Path, Endpoint      string
		LastError                  string `json:"last_error"`
		Flows                      int
	}
	Health []struct{ Level, Text, Fix string }
}

func newHost(t *testing.T, name string) *host {
	t.Helper()
	ns := nstest.New(t, name)
	// A file of its own in place of /etc/resolv.conf, as `ip netns` offers.
	etc := filepath.Join("/etc/netns", ns.Name)
	if err := os.MkdirAll(etc, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		os.RemoveAll(etc)
		os.Remove("/etc/netns") // fails unless empty
	})
	if err := os.WriteFile(filepath.Join(etc, "resolv.conf"), []byte("# empty\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	return &host{ns: ns, dir: dir, flags: []string{
		"--state-dir", filepath.Join(dir, "state"),
		"--socket", filepath.Join(dir, "run", "nodetun.sock"),
		"--config", filepath.Join(dir, "nodetun.toml"),
	}}
}

// command prepares `nodetun ARGS` on the host.
func (h *host) command(ctx context.Context, args ...string) *exec.Cmd {
	argv := append([]string{binary}, args...)
	return h.ns.Cmd(ctx, append(argv, h.flags...)...)
}

// try runs `nodetun ARGS` and returns both outputs and the exit code.
func (h *host) try(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	b, err := h.command(ctx, args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("nodetun %v: %v", args, err)
	}
	if exit != nil {
		code = exit.ExitCode()
	}
	return string(b), code
}

// nodetun runs `nodetun ARGS`, which must succeed.
func (h *host) nodetun(t *testing.T, args ...string) string {
	t.Helper()
	out, code := h.try(t, args...)
	if code != 0 {
		t.Fatalf("nodetun %s: exit code %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// id returns the host's NodeID, making its key if there is none.
func (h *host) id(t *testing.T) string {
	t.Helper()
	return strings.TrimSpace(h.nodetun(t, "id", "--create"))
}

// start runs `nodetun up` with the given flags and returns once it is ready.
func (h *host) start(t *testing.T, args ...string) {
	t.Helper()
	h.up = h.spawn(t, append([]string{binary, "up", "--dns", "file"}, append(args, h.flags...)...)...)
	h.ready(t)
}

// ready waits until the daemon answers `status`.
func (h *host) ready(t *testing.T) {
	t.Helper()
	eventually(t, 10*time.Second, "nodetun up is ready", func() error {
		if h.up.exited() {
			t.Fatalf("nodetun up ended:\n%s", h.up.output())
		}
		out, code := h.try(t, "status", "--json")
		if code != 0 {
			return fmt.Errorf("status: exit code %d: %s", code, out)
		}
		return nil
	})
}

// stop ends the daemon as ^C does and waits for it.
func (h *host) stop(t *testing.T) {
	t.Helper()
	h.up.signal(syscall.SIGINT)
	h.up.wait(t, 10*time.Second)
}

func (h *host) status(t *testing.T) status {
	t.Helper()
	var s status
	if err := json.Unmarshal([]byte(h.nodetun(t, "status", "--json")), &s); err != nil {
		t.Fatalf("status --json: %v", err)
	}
	return s
}

// awaitPath waits until the only peer is reached by the given path.
func (h *host) awaitPath(t *testing.T, within time.Duration, path string) {
	t.Helper()
	began := time.Now()
	eventually(t, within, "path is "+path, func() error {
		s := h.status(t)
		if len(s.Peers) != 1 || s.Peers[0].State != "connected" || s.Peers[0].Path != path {
			return fmt.Errorf("peers: %+v", s.Peers)
		}
		return nil
	})
	t.Logf("path %s after %v", path, time.Since(began).Round(10*time.Millisecond))
}

// process is a program that runs beside the test.
type process struct {
	cmd  *exec.Cmd
	log  *syncBuffer
	done chan struct{}
}

// syncBuffer collects the output of a process.
type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// spawn starts a program in the host's namespace; it is killed with the test.
func (h *host) spawn(t *testing.T, argv ...string) *process {
	t.Helper()
	p := &process{cmd: h.ns.Cmd(context.Background(), argv...), log: &syncBuffer{}, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("%v: %v", argv, err)
	}
	go func() {
		defer close(p.done)
		p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.signal(syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(10 * time.Second):
			p.signal(syscall.SIGKILL)
			<-p.done
		}
		if t.Failed() {
			t.Logf("output of %s on %s:\n%s", strings.Join(argv[:min(3, len(argv))], " "), h.ns.Name, p.output())
		}
	})
	return p
}

// signal reaches the program itself: `ip netns exec` becomes it by exec.
func (p *process) signal(s syscall.Signal) { p.cmd.Process.Signal(s) }

func (p *process) output() string { return p.log.String() }

func (p *process) exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// wait waits for the end of the program and returns its exit code.
func (p *process) wait(t *testing.T, within time.Duration) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(within):
		t.Fatalf("%v still runs after %v:\n%s", p.cmd.Args, within, p.output())
	}
	return p.cmd.ProcessState.ExitCode()
}

// eventually waits for a condition, asking every 50 ms; its last error is
// what the test reports.
func eventually(t *testing.T, within time.Duration, what string, condition func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s: %v", within, what, err)
		}
		<-tick.C
	}
}

// sshd starts a real sshd on port 22 of the host, for root with the returned
// private key.
func (h *host) sshd(t *testing.T) (server *process, key string) {
	t.Helper()
	nstest.Require(t, "sshd")
	nstest.Require(t, "ssh")
	key, hostKey := filepath.Join(h.dir, "user_key"), filepath.Join(h.dir, "host_key")
	for _, k := range []string{key, hostKey} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", k).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v\n%s", err, out)
		}
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf("Port 22\nHostKey %s\nAuthorizedKeysFile %s.pub\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\nPidFile none\nUseDNS no\n",
		hostKey, key)
	file := filepath.Join(h.dir, "sshd_config")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	path, err := exec.LookPath("sshd")
	if err != nil {
		t.Fatal(err)
	}
	server = h.spawn(t, path, "-D", "-e", "-f", file)
	eventually(t, 5*time.Second, "sshd listens", func() error {
		if out := h.ns.Run(t, "ss", "-Hltn", "sport", "=", ":22"); out == "" {
			return errors.New("no listener on port 22")
		}
		return nil
	})
	return server, key
}

// ssh is the argument list of a real ssh call to the target.
func sshArgs(key, target string, command ...string) []string {
	return append([]string{
		"ssh", "-F", "none", "-i", key, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "LogLevel=ERROR", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "root@" + target,
	}, command...)
}

// befriend makes two hosts peers of each other. where gives a's address as b
// reaches it, and b's as a does; empty ones are left out. extra goes to both
// `peer add`.
func befriend(t *testing.T, a *host, aAddr string, b *host, bAddr string, extra ...string) {
	t.Helper()
	add := func(on, other *host, name, addr string) {
		args := append([]string{"peer", "add", other.id(t), "--name", name}, extra...)
		if addr != "" {
			args = append(args, "--addr", addr)
		}
		on.nodetun(t, args...)
	}
	add(a, b, "bob", bAddr)
	add(b, a, "alice", aAddr)
}

// joinHosts puts a cable between two hosts that are peers of each other, with
// every rule.
//
//	alice 10.0.0.1 ── veth ── 10.0.0.2 bob
func joinHosts(t *testing.T, a, b *host) {
	t.Helper()
	nstest.Veth(t, a.ns, "10.0.0.1/24", b.ns, "10.0.0.2/24")
	befriend(t, a, "10.0.0.1:41820", b, "10.0.0.2:41820", "--allow", "all")
}

// pair is two joined hosts, up with the given flags.
func pair(t *testing.T, upFlags ...string) (a, b *host) {
	t.Helper()
	a, b = newHost(t, "a"), newHost(t, "b")
	joinHosts(t, a, b)
	a.start(t, upFlags...)
	b.start(t, upFlags...)
	return a, b
}
