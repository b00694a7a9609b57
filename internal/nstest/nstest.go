//go:build linux

package nstest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// counter makes names unique inside this process; the process id makes them
// unique between processes.
var counter atomic.Uint64

// NS is one network namespace, with its loopback up.
type NS struct {
	// Name is its name for `ip netns`, also the path under /run/netns.
	Name string
	// Within goes before each program that runs inside: a command that enters more.
	Within []string
}

// RequireRoot skips the test unless it runs as root with `ip netns` at hand.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root for network namespaces: run scripts/test as root (sudo ./scripts/test)")
	}
	for _, tool := range []string{"ip", "nft"} {
		Require(t, tool)
	}
}

// Require skips the test when the program is missing.
func Require(t testing.TB, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("needs the program %q: run scripts/test, which installs it", program)
	}
}

// New makes a namespace whose name begins with a short form of name.
func New(t testing.TB, name string) *NS {
	t.Helper()
	RequireRoot(t)
	ns := &NS{Name: fmt.Sprintf("nt%d-%d-%s", os.Getpid(), counter.Add(1), name)}
	command(t, "ip", "netns", "add", ns.Name)
	t.Cleanup(func() {
		ns.clear(t)
		command(t, "ip", "netns", "del", ns.Name)
	})
	ns.Run(t, "ip", "link", "set", "lo", "up")
	return ns
}

// clear ends what still runs inside: children that outlived the program that the
// test started.
func (ns *NS) clear(t testing.TB) {
	t.Helper()
	out, err := exec.Command("ip", "netns", "pids", ns.Name).Output()
	if err != nil {
		t.Errorf("ip netns pids: %v", err)
	}
	for _, field := range strings.Fields(string(out)) {
		if pid, err := strconv.Atoi(field); err == nil && pid != os.Getpid() {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
		}
	}
}

// Cmd prepares a program to run inside the namespace.
func (ns *NS) Cmd(ctx context.Context, argv ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ip", slices.Concat([]string{"netns", "exec", ns.Name}, ns.Within, argv)...)
}

// Run runs a program inside the namespace, at most a minute, and returns its
// standard output. The test fails at once if the program does.
func (ns *NS) Run(t testing.TB, argv ...string) string {
	t.Helper()
	out, err := ns.Try(argv...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return out
}

// Try is Run for programs that may fail; the output holds both streams.
func (ns *NS) Try(argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := ns.Cmd(ctx, argv...).CombinedOutput()
	return string(out), err
}

// Do calls f on a thread that is inside the namespace. Sockets that f opens
// stay in the namespace for their whole life. f may end the test with t.Fatal.
//
// The thread is never the process's first one, whose namespace is what others
// see as that of the process.
func (ns *NS) Do(t testing.TB, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if os.Getpid() != unix.Gettid() {
		ns.enter(t, f)
		return
	}
	// This goroutine keeps the first thread, so the other gets another one.
	done, finished := make(chan struct{}), false
	go func() {
		defer close(done)
		ns.enter(t, f)
		finished = true
	}()
	<-done
	if !finished {
		t.FailNow()
	}
}

func (ns *NS) enter(t testing.TB, f func()) {
	t.Helper()
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		t.Fatalf("own namespace: %v", err)
	}
	defer home.Close()
	target, err := netns.GetFromName(ns.Name)
	if err != nil {
		t.Fatalf("namespace %s: %v", ns.Name, err)
	}
	defer target.Close()
	if err := netns.Set(target); err != nil {
		t.Fatalf("enter %s: %v", ns.Name, err)
	}
	defer func() {
		// A thread that cannot go back stays locked and dies with its goroutine.
		if err := netns.Set(home); err == nil {
			runtime.UnlockOSThread()
		}
	}()
	f()
}

// Nft loads an nftables ruleset into the namespace.
func (ns *NS) Nft(t testing.TB, ruleset string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := ns.Cmd(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(ruleset)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v\n%s", err, out)
	}
}

// Veth joins two namespaces with a cable. Each end gets the given address
// ("10.0.0.1/24", none when empty) and is up, without the delay of IPv6
// duplicate address detection.
func Veth(t testing.TB, a *NS, aCIDR string, b *NS, bCIDR string) (aIf, bIf string) {
	t.Helper()
	n := counter.Add(1)
	aIf, bIf = fmt.Sprintf("va%d-%d", os.Getpid()%100000, n), fmt.Sprintf("vb%d-%d", os.Getpid()%100000, n)
	command(t, "ip", "link", "add", aIf, "netns", a.Name, "type", "veth", "peer", "name", bIf, "netns", b.Name)
	for _, end := range []struct {
		ns       *NS
		dev, net string
	}{{a, aIf, aCIDR}, {b, bIf, bCIDR}} {
		end.ns.Try("sysctl", "-qw", "net.ipv6.conf."+end.dev+".accept_dad=0")
		if end.net != "" {
			end.ns.Run(t, "ip", "addr", "add", end.net, "dev", end.dev)
		}
		end.ns.Run(t, "ip", "link", "set", end.dev, "up")
	}
	return aIf, bIf
}

// command runs a program outside the namespaces.
func command(t testing.TB, argv ...string) {
	t.Helper()
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
}
