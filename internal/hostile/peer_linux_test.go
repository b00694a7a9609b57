package hostile

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nodetun/nodetun/endpoint"
	"github.com/nodetun/nodetun/internal/hosttest"
	"github.com/nodetun/nodetun/internal/nstest"
)

var (
	lasts = flag.Duration("time", 4*time.Second, "how long each attack goes on")
	seed  = flag.Uint64("seed", 1, "of what is random")
)

func TestMain(m *testing.M) { os.Exit(hosttest.Main(m)) }

// Bounds of S29.
const (
	mostMemory = 256 << 20       // bytes of the victim's process
	longestGap = 1 * time.Second // of another peer's connection
)

// Ports of programs on the victim: one answers, one reads nothing, one sends without end.
const (
	echoPort  = 7000
	deafPort  = 7001
	talkPort  = 7002
	peerPort  = "41820"
	echoPause = 20 * time.Millisecond
)

// A peer that is allowed everything fills windows with frames that cost much, or reads
// nothing: the victim's memory is bounded, the connection of another peer goes on, and no
// goroutine is left.
func TestNetnsPeer(t *testing.T) {
	victim, other, eve := hosttest.New(t, "v"), hosttest.New(t, "o"), newAttacker(t)
	network := hosttest.NewInternet(t)
	addrs := map[*hosttest.Host]string{}
	for _, h := range []*hosttest.Host{victim, other} {
		addrs[h], _, _ = strings.Cut(network.Join(t, h).Addr, "/")
	}
	eve.join(t, network)
	hosttest.Befriend(t, victim, addrs[victim]+":"+peerPort, other, addrs[other]+":"+peerPort, "--allow", "all")
	victim.Nodetun(t, "peer", "add", eve.key.NodeID().String(), "--name", "eve", "--allow", "all")
	victim.Configure(t, "metrics_addr = \""+metricsAt+"\"\n")
	victim.Start(t, "--relay", "none", "--discovery", "none", "--dns", "none")
	other.Start(t, "--relay", "none", "--discovery", "none", "--dns", "none")
	other.AwaitPath(t, 10*time.Second, "direct")
	eve.attacks(t, victim, addrs[victim])
	serve(t, victim)
	load(t, victim, other)

	gaps := listen(t, other, echoPort)
	goroutines := figure(t, victim, "go_goroutines")
	for i, tc := range []struct {
		name   string
		attack Attack
	}{
		{"unread, 128 bytes a frame", Unread(deafPort, 200, 128)},
		{"unread, 1 byte a frame", Unread(deafPort, 200, 1)},
		{"unread, 1200 bytes a frame", Unread(deafPort, 1024, 1200)},
		{"unnamed, 128 bytes a frame", Unnamed(1000, 128)},
		{"unnamed, 1 byte a frame", Unnamed(1000, 1)},
		{"deaf", Deaf(talkPort, 1024)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			gaps() // those before
			ctx, cancel := context.WithTimeout(t.Context(), *lasts)
			defer cancel()
			err := tc.attack(ctx, eve.peer(uint64(i)))
			if err != nil && ctx.Err() == nil {
				if _, closed := endpoint.Cause(err); !closed {
					t.Fatal(err)
				}
			}
			most, now := memory(t, victim.Up.PID(), "VmHWM"), memory(t, victim.Up.PID(), "VmRSS")
			gap := gaps()
			t.Logf("ended by %v; memory %d MiB, at most %d; longest gap of another peer %v", err, now>>20, most>>20, gap)
			if most > mostMemory {
				t.Errorf("the victim took %d MiB", most>>20)
			}
			if gap > nstest.Slack*longestGap {
				t.Errorf("another peer had to wait for %v", gap)
			}
		})
	}
	if *busy { // a program that reads nothing is waited for, a minute
		quiet(t, victim, goroutines)
	}
}

// memory reads a line of /proc/PID/status, in bytes.
func memory(t *testing.T, pid int, what string) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, what+":"); ok {
			var kib int64
			if _, err := fmt.Sscan(rest, &kib); err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatalf("no %s in the status of process %d", what, pid)
	return 0
}

// serve runs the programs on the victim.
func serve(t *testing.T, h *hosttest.Host) {
	for port, program := range map[int]func(net.Conn){
		echoPort: func(c net.Conn) { _, _ = io.Copy(c, c) },
		deafPort: func(net.Conn) { <-t.Context().Done() },
		talkPort: func(c net.Conn) {
			for chunk := make([]byte, 64<<10); ; {
				if _, err := c.Write(chunk); err != nil {
					return
				}
			}
		},
	} {
		var listener net.Listener
		h.NS.Do(t, func() {
			var err error
			if listener, err = net.Listen("tcp", fmt.Sprintf(":%d", port)); err != nil {
				t.Fatal(err)
			}
		})
		t.Cleanup(func() { listener.Close() })
		go func() {
			for {
				c, err := listener.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					program(c)
				}()
			}
		}()
	}
}

// listen keeps a connection of the host to the echo of its only peer, and returns what
// tells the longest time that an answer took since it was asked last.
func listen(t *testing.T, h *hosttest.Host, port int) func() time.Duration {
	var c net.Conn
	addr := net.JoinHostPort(h.Status(t).Peers[0].IPv6, fmt.Sprint(port))
	h.NS.Do(t, func() {
		var err error
		if c, err = net.DialTimeout("tcp", addr, 10*time.Second); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { c.Close() })
	asks := make(chan chan time.Duration)
	go func() {
		longest := time.Duration(0)
		for {
			select {
			case answer := <-asks:
				answer <- longest
				longest = 0
			case <-t.Context().Done():
				return
			case <-time.After(echoPause):
			}
			began := time.Now()
			_ = c.SetDeadline(began.Add(time.Minute))
			if _, err := c.Write([]byte("x")); err != nil {
				longest = time.Hour
				continue
			}
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				longest = time.Hour
				continue
			}
			longest = max(longest, time.Since(began))
		}
	}()
	return func() time.Duration {
		answer := make(chan time.Duration)
		asks <- answer
		return <-answer
	}
}
