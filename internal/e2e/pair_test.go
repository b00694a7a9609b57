//go:build linux

package e2e

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/hosttest"
	"github.com/nodetun/nodetun/internal/nstest"
)

// pairing is `nodetun pair` with somebody in front of it.
type pairing struct {
	cmd   *exec.Cmd
	types chan string // what is typed
	ended chan error

	mu  sync.Mutex
	out bytes.Buffer
}

func (p *pairing) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

func (p *pairing) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// Read gives the program what is typed, when it is.
func (p *pairing) Read(b []byte) (int, error) { return copy(b, <-p.types), nil }

// wait returns the first part of the output that matches.
func (p *pairing) wait(t *testing.T, pattern string) (found string) {
	t.Helper()
	re := regexp.MustCompile(pattern)
	hosttest.Eventually(t, 20*time.Second, pattern, func() error {
		match := re.FindStringSubmatch(p.output())
		if match == nil {
			return errors.New(p.output())
		}
		found = match[1]
		return nil
	})
	return found
}

func startPairing(t *testing.T, h *hosttest.Host, args ...string) *pairing {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	p := &pairing{cmd: h.Command(ctx, append([]string{"pair"}, args...)...), types: make(chan string, 1), ended: make(chan error, 1)}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	in, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for text := range p.types {
			_, _ = in.Write([]byte(text))
		}
	}()
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.ended <- p.cmd.Wait()
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		close(p.types)
	})
	return p
}

const checkLine = `both have to show: (\d{3} \d{3})`

// Two blank machines become peers by a code, on a LAN without anything else and by a relay
// behind NATs, once both owners say that they see the same.
func TestNetnsPair(t *testing.T) {
	t.Parallel()
	for name, join := range map[string]func(a, b *hosttest.Host) []string{
		"LAN": func(a, b *hosttest.Host) []string {
			nstest.Veth(t, a.NS, "10.0.0.1/24", b.NS, "10.0.0.2/24")
			return []string{"--relay", "none", "--discovery", "none"}
		},
		"relay": func(a, b *hosttest.Host) []string {
			n := hosttest.NewInternet(t)
			n.StartRelay(t, 0)
			n.Router(t, hosttest.RouterConfig{Kind: hosttest.Easy}).Join(t, a)
			n.Router(t, hosttest.RouterConfig{Kind: hosttest.Symmetric, LAN: 2}).Join(t, b)
			return []string{"--relay", hosttest.RelayURL(0), "--discovery", "none"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := hosttest.New(t, "a"), hosttest.New(t, "b")
			flags := join(a, b)
			a.Start(t, append(flags, "--name", "alice")...)
			b.Start(t, append(flags, "--name", "bob")...)
			_, key := a.Sshd(t)

			began := time.Now()
			pa := startPairing(t, a)
			code := pa.wait(t, `sudo nodetun pair (\d{3} \d{3} \d{3})`)
			pb := startPairing(t, b, strings.Fields(code)...)
			if one, two := pa.wait(t, checkLine), pb.wait(t, checkLine); one != two {
				t.Fatalf("checks %s and %s", one, two)
			}
			if len(a.Status(t).Peers)+len(b.Status(t).Peers) > 0 {
				t.Error("peers before anybody said yes")
			}
			pb.types <- "y\n"
			pa.types <- "yes\n"
			for _, p := range []*pairing{pa, pb} {
				if err := <-p.ended; err != nil {
					t.Fatalf("%v\n%s", err, p.output())
				}
			}
			t.Logf("peers after %v:\n%s", time.Since(began).Round(10*time.Millisecond), pa.output())
			b.SSHWorks(t, key, "alice.node.internal")
			if p := a.Status(t).Peers; len(p) != 1 || p[0].Name != "bob" {
				t.Errorf("the peers of the one that waited: %+v", p)
			}
		})
	}
}

// One owner says no: nothing is added on either side, and both are told.
func TestNetnsPairRefused(t *testing.T) {
	t.Parallel()
	a, b := hosttest.New(t, "a"), hosttest.New(t, "b")
	nstest.Veth(t, a.NS, "10.0.0.1/24", b.NS, "10.0.0.2/24")
	a.Start(t, "--relay", "none", "--discovery", "none")
	b.Start(t, "--relay", "none", "--discovery", "none")
	for _, says := range [][2]string{{"y\n", "n\n"}, {"\n", "y\n"}} {
		pa := startPairing(t, a)
		pb := startPairing(t, b, strings.ReplaceAll(pa.wait(t, `sudo nodetun pair (\d{3} \d{3} \d{3})`), " ", ""))
		pa.wait(t, checkLine)
		pb.wait(t, checkLine)
		pa.types <- says[0]
		pb.types <- says[1]
		for _, p := range []*pairing{pa, pb} {
			if err := <-p.ended; err == nil || !strings.Contains(p.output(), "nothing was added") {
				t.Errorf("%v\n%s", err, p.output())
			}
		}
	}
	if len(a.Status(t).Peers)+len(b.Status(t).Peers) > 0 {
		t.Error("peers were added")
	}
	for args, want := range map[string]string{"12 34": "a code has nine digits"} {
		if out, code := a.Try(t, append([]string{"pair"}, strings.Fields(args)...)...); code != 2 || !strings.Contains(out, want) {
			t.Errorf("pair %s: exit %d\n%s", args, code, out)
		}
	}
}
