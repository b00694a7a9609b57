//go:build linux

package hosttest

import (
	"context"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/nstest"
)

// patience is how long a program has to end after being asked to.
const patience = time.Minute

// Process is a program that runs beside the test. Its methods may be called
// from any goroutine.
type Process struct {
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

// Spawn starts a program in the host's namespace. It is ended with the test,
// and its output shown if the test failed.
func (h *Host) Spawn(t testing.TB, argv ...string) *Process {
	t.Helper()
	p := &Process{cmd: h.NS.Cmd(context.Background(), argv...), log: &syncBuffer{}, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.WaitDelay = time.Second // children may keep the outputs open
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("%v: %v", argv, err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.Signal(syscall.SIGCONT) // a stopped one would not hear the next
		p.Signal(syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(patience):
			p.Signal(syscall.SIGKILL)
			<-p.done
		}
		if t.Failed() {
			t.Logf("output of %s on %s:\n%s", strings.Join(argv[:min(3, len(argv))], " "), h.NS.Name, p.Output())
		}
	})
	return p
}

// Signal reaches the program itself: `ip netns exec` becomes it by exec.
func (p *Process) Signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// PID is the id of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Output returns what it wrote to both of its outputs so far.
func (p *Process) Output() string { return p.log.String() }

// Exited reports whether it ended.
func (p *Process) Exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Wait waits for the end of the program, at most nstest.Slack times within, and
// returns its exit code.
func (p *Process) Wait(t testing.TB, within time.Duration) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(nstest.Slack * within):
		t.Fatalf("%v still runs after %v:\n%s", p.cmd.Args, within, p.Output())
	}
	return p.cmd.ProcessState.ExitCode()
}

// Eventually waits for a condition, asking every 50 ms, for at most nstest.Slack
// times within; its last error is what the test reports.
func Eventually(t testing.TB, within time.Duration, what string, condition func() error) {
	t.Helper()
	if err := Until(nstest.Slack*within, condition); err != nil {
		t.Fatalf("not within %v: %s: %v", nstest.Slack*within, what, err)
	}
}

// Until is Eventually for those who go on without it: it returns the last error when
// that time is over.
func Until(within time.Duration, condition func() error) error {
	deadline := time.Now().Add(within)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := condition()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		<-tick.C
	}
}
