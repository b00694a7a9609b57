//go:build linux

package hosttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/nstest"
)

// OwnSSH gives the host an /etc/ssh of its own, with a host key and with a configuration
// that reads drop-ins, and returns the directory.
func (h *Host) OwnSSH(t testing.TB) (dir string) {
	t.Helper()
	nstest.Require(t, "ssh-keygen")
	dir = filepath.Join("/etc/netns", h.NS.Name, "ssh")
	if err := os.MkdirAll(filepath.Join(dir, "ssh_config.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	h.hostKey = filepath.Join(dir, "ssh_host_ed25519_key")
	h.NewHostKey(t)
	if err := os.WriteFile(filepath.Join(dir, "ssh_config"), []byte("Include /etc/ssh/ssh_config.d/*.conf\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// NewHostKey makes another host key, as if the host had been installed anew.
func (h *Host) NewHostKey(t testing.TB) {
	t.Helper()
	for _, path := range []string{h.hostKey, h.hostKey + ".pub"} {
		_ = os.Remove(path)
	}
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", h.hostKey).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
}

// Sshd starts a real sshd on port 22 of the host, for root with the returned
// private key.
func (h *Host) Sshd(t testing.TB) (server *Process, key string) {
	t.Helper()
	nstest.Require(t, "sshd")
	nstest.Require(t, "ssh")
	key = filepath.Join(h.Dir, "user_key")
	if h.hostKey == "" {
		h.hostKey = filepath.Join(h.Dir, "host_key")
	}
	for _, k := range []string{key, h.hostKey} {
		if _, err := os.Stat(k); err == nil {
			continue
		}
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", k).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v\n%s", err, out)
		}
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf("Port 22\nHostKey %s\nAuthorizedKeysFile %s.pub\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\nPidFile none\nUseDNS no\nSubsystem sftp internal-sftp\n",
		h.hostKey, key)
	file := filepath.Join(h.Dir, "sshd_config")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	path, err := exec.LookPath("sshd")
	if err != nil {
		t.Fatal(err)
	}
	server = h.Spawn(t, path, "-D", "-e", "-f", file)
	h.AwaitListener(t, "22")
	return server, key
}

// SshdWithKeyOf starts an sshd that has the host key of another host.
func (h *Host) SshdWithKeyOf(t testing.TB, other *Host) {
	t.Helper()
	own := h.hostKey
	h.hostKey = other.hostKey
	h.Sshd(t)
	h.hostKey = own
}

// AwaitListener waits until something on the host listens on the TCP port.
func (h *Host) AwaitListener(t testing.TB, port string) {
	t.Helper()
	Eventually(t, 5*time.Second, "listens on port "+port, func() error {
		if out := h.NS.Run(t, "ss", "-Hltn", "sport", "=", ":"+port); out == "" {
			return errors.New("no listener on port " + port)
		}
		return nil
	})
}

// IperfServer starts an iperf3 server and waits until it listens.
func (h *Host) IperfServer(t testing.TB, port string) {
	t.Helper()
	nstest.Require(t, "iperf3")
	// Its own limit of 120 s without data would end it in an outage.
	h.Spawn(t, "iperf3", "-s", "-p", port, "--rcv-timeout", "3600000")
	h.AwaitListener(t, port)
}

// sshArgs is the argument list of a real ssh call to the target.
func sshArgs(key, target string, command ...string) []string {
	return append([]string{
		"ssh", "-F", "none", "-i", key, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "LogLevel=ERROR", "-o", "BatchMode=yes", "-o", "ConnectTimeout=60", "root@" + target,
	}, command...)
}

// SSHWorks runs a command over ssh to each target.
func (h *Host) SSHWorks(t testing.TB, key string, targets ...string) {
	t.Helper()
	for _, target := range targets {
		began := time.Now()
		out, err := h.NS.Try(sshArgs(key, target, "echo", "hello from ssh")...)
		if err != nil || strings.TrimSpace(out) != "hello from ssh" {
			t.Errorf("ssh %s: %v\n%s", target, err, out)
		}
		t.Logf("ssh %s: %v", target, time.Since(began).Round(time.Millisecond))
	}
}

// Session is an ssh session that prints a line again and again. Its methods may be
// called from any goroutine.
type Session struct {
	// Ended is closed when ssh has ended.
	Ended chan struct{}

	mu    sync.Mutex
	last  time.Time     // of output
	gap   time.Duration // the longest so far
	lines int
	err   error // of ssh
}

// Write notes the arrival of output.
func (s *Session) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if !s.last.IsZero() {
		s.gap = max(s.gap, now.Sub(s.last))
	}
	s.last = now
	s.lines += bytes.Count(p, []byte("\n"))
	return len(p), nil
}

// State returns the number of lines so far and the longest gap between two,
// the one that is still open included.
func (s *Session) State() (lines int, gap time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lines, max(s.gap, time.Since(s.last))
}

// Silence returns for how long nothing has come.
func (s *Session) Silence() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.last)
}

// Forget makes State begin anew: gaps until now do not count.
func (s *Session) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gap, s.last = 0, time.Now()
}

// SSHSession starts an ssh session that prints a line every so often until the test
// ends.
func (h *Host) SSHSession(t testing.TB, key, target string, every time.Duration) *Session {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &Session{Ended: make(chan struct{})}
	cmd := h.NS.Cmd(ctx, sshArgs(key, target, fmt.Sprintf("while sleep %.3f; do echo tick; done", every.Seconds()))...)
	cmd.Stdout = s
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	go func() {
		err := cmd.Wait()
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
		close(s.Ended)
	}()
	t.Cleanup(func() {
		cancel()
		<-s.Ended
	})
	Eventually(t, 10*time.Second, "the ssh session prints", func() error {
		if lines, _ := s.State(); lines < 3 {
			return fmt.Errorf("%d lines", lines)
		}
		return nil
	})
	return s
}

// Alive returns an error if the session has ended.
func (s *Session) Alive() error {
	select {
	case <-s.Ended:
		s.mu.Lock()
		defer s.mu.Unlock()
		return fmt.Errorf("the ssh session ended: %v", s.err)
	default:
		return nil
	}
}

// StillRuns fails the test if the session ended or had a gap above nstest.Slack times
// limit.
func (s *Session) StillRuns(t testing.TB, limit time.Duration) {
	t.Helper()
	if err := s.Alive(); err != nil {
		t.Fatal(err)
	}
	lines, gap := s.State()
	t.Logf("ssh session: %d lines, longest gap %v", lines, gap.Round(10*time.Millisecond))
	if limit *= nstest.Slack; gap > limit {
		t.Errorf("the ssh session had a gap of %v, want at most %v", gap, limit)
	}
}
