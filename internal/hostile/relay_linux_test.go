package hostile

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/hosttest"
	"github.com/nodetun/nodetun/internal/nstest"
)

// relayPort is where the hostile relay listens.
const relayPort = "3340"

// A relay that does what it likes with two nodes, whose home it is, costs them bounded memory,
// ends none of them, writes nothing to their terminals, and the connection that they have
// without it goes on.
func TestNetnsRelay(t *testing.T) {
	victim, other, evil := hosttest.New(t, "v"), hosttest.New(t, "o"), hosttest.New(t, "r")
	network := hosttest.NewInternet(t)
	addrs := map[*hosttest.Host]string{}
	for _, h := range []*hosttest.Host{victim, other, evil} {
		addrs[h], _, _ = strings.Cut(network.Join(t, h).Addr, "/")
	}
	var listener net.Listener
	evil.NS.Do(t, func() {
		var err error
		if listener, err = net.Listen("tcp", ":"+relayPort); err != nil {
			t.Fatal(err)
		}
	})
	relay := NewRelay(*seed)
	relay.Each = max(time.Second, *lasts/20)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); relay.Serve(ctx, listener) }()
	defer func() { stop(); <-ended }()

	hosttest.Befriend(t, victim, addrs[victim]+":"+peerPort, other, addrs[other]+":"+peerPort, "--allow", "all")
	url := "http://" + addrs[evil] + ":" + relayPort + "/"
	for _, h := range []*hosttest.Host{victim, other} {
		h.Configure(t, "metrics_addr = \""+metricsAt+"\"\n")
		h.Start(t, "--relay", url, "--discovery", "none", "--dns", "none")
	}
	other.AwaitPath(t, 20*time.Second, "direct")
	serve(t, victim)
	load(t, victim, other)
	gaps := listen(t, other, echoPort)
	goroutines := figure(t, victim, "go_goroutines")

	end := time.Now().Add(3 * *lasts)
	for time.Now().Before(end) {
		time.Sleep(min(time.Second, time.Until(end)))
		// What people look at meanwhile.
		for _, args := range [][]string{{"status"}, {"why", "bob"}} {
			if out, _ := victim.Try(t, args...); strings.ContainsAny(out, "\x1b\x07\u202e") {
				t.Fatalf("%v shows %q", args, out)
			}
		}
	}
	gap := gaps()
	stop()
	<-ended

	for _, h := range []*hosttest.Host{victim, other} {
		if h.Up.Exited() || strings.Contains(h.Up.Output(), "panic") || strings.Contains(h.Up.Output(), "goroutine ") {
			t.Fatalf("a node ended:\n%s", h.Up.Output())
		}
		most := memory(t, h.Up.PID(), "VmHWM")
		t.Logf("%s: at most %d MiB, %d bytes of log", h.NS.Name, most>>20, len(h.Up.Output()))
		if most > mostMemory {
			t.Errorf("a node took %d MiB", most>>20)
		}
	}
	t.Logf("attacks %s; longest gap %v", relay.Done(), gap)
	if gap > nstest.Slack*longestGap {
		t.Errorf("the connection of the two stood for %v", gap)
	}
	quiet(t, victim, goroutines)
}

// quiet waits until a node has no more goroutines than before.
func quiet(t *testing.T, h *hosttest.Host, before float64) {
	t.Helper()
	const more = 10 // of connections that come and go
	hosttest.Eventually(t, 30*time.Second, "goroutines end", func() error {
		if now := figure(t, h, "go_goroutines"); now > before+more {
			return fmt.Errorf("%v goroutines, before %v", now, before)
		}
		return nil
	})
}
