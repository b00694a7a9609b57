//go:build linux

package natmatrix

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/hosttest"
	"github.com/nodetun/nodetun/internal/nstest"
)

// Limits of an event.
const (
	backWithin = nstest.Slack * 5 * time.Second         // direct again, once that is possible
	calm       = 5 * time.Second                        // without trouble: longer than the death of a path takes
	outage     = 5 * time.Second                        // how long a cable is out and UDP blocked
	wakeWithin = nstest.Slack * 2 * time.Second         // a session goes on after waking
	tick       = 10 * time.Millisecond                  // between two lines of the ssh session: while a node is away, more of them than its buffers hold
	addressGap = nstest.Slack * 2500 * time.Millisecond // the path and the relay both die
	switchGap  = nstest.Slack * 1500 * time.Millisecond // while a relay works; the issue of a path's death
)

// event is a change of a network under a running session.
type event struct {
	name  string        // as readers of the table see it
	nets  hosttest.Kind // of a's router; easy if empty
	far   hosttest.Kind // the same of b's
	quick bool
	// gap is the longest time without output that is all right, besides what the
	// event takes by itself.
	gap time.Duration
	// path is the one before and after; direct if empty.
	path string
	// change does it, and returns when the path is possible again and how long
	// nothing could pass by any means.
	change func(*testing.T, *site) (possible time.Time, dead time.Duration)
}

// site is what events happen to: b behind the router at the far end, a here.
type site struct {
	*world
	cable  hosttest.Cable // of a
	router *hosttest.Router
	shell  *hosttest.Session
	load   *hosttest.Process // iperf3
}

// outcome is what was measured.
type outcome struct {
	event
	ran       bool
	gap, back time.Duration
	load      string
}

func events() []event {
	return []event{
		{name: "the router forgets its mappings and takes other ports", quick: true, gap: switchGap, change: func(t *testing.T, s *site) (time.Time, time.Duration) {
			s.router.Remap(t)
			return time.Now(), 0
		}},
		{name: "the router gets another public address", gap: switchGap, change: func(t *testing.T, s *site) (time.Time, time.Duration) {
			s.net.Renumber(t, s.router)
			return time.Now(), 0
		}},
		{name: "the same, and drops what it does not know", quick: true, gap: addressGap, change: func(t *testing.T, s *site) (time.Time, time.Duration) {
			s.router.DropStrays(t) // the connection to the relay hangs, instead of ending
			s.net.Renumber(t, s.router)
			return time.Now(), 0
		}},
		{name: "cable out for 5 s", gap: wakeWithin, change: func(t *testing.T, s *site) (time.Time, time.Duration) {
			began := time.Now()
			s.cable.Cut(t)
			pass(t, outage)
			s.cable.Mend(t)
			return time.Now(), time.Since(began)
		}},
		{name: "moved to another network", gap: wakeWithin, change: func(t *testing.T, s *site) (time.Time, time.Duration) {
			began := time.Now()
			s.cable.Remove(t)
			s.cable, s.router = s.join(t, s.a, hosttest.RouterConfig{Kind: hosttest.Easy, LAN: 5})
			return time.Now(), time.Since(began)
		}},
		{name: "UDP blocked for 5 s", gap: switchGap, quick: true, change: func(t *testing.T, s *site) (time.Time, time.Duration) {
			s.router.BlockUDP(t)
			s.a.AwaitPath(t, outage, relay)
			pass(t, outage)
			s.router.UnblockUDP(t)
			return time.Now(), 0
		}},
		{name: "relay killed, direct path", gap: switchGap, change: func(t *testing.T, s *site) (time.Time, time.Duration) {
			s.killRelay(t)
			return time.Now(), 0
		}},
		{name: "relay killed, no direct path", nets: hosttest.Blocked, path: relay, gap: backWithin, change: func(t *testing.T, s *site) (time.Time, time.Duration) {
			was := s.killRelay(t)
			killed := time.Now()
			hosttest.Eventually(t, backWithin, "another relay takes over", func() error {
				if p := s.a.Status(t).Peers[0]; p.Path != relay || p.Endpoint == was {
					return fmt.Errorf("%s by %s", p.Path, p.Endpoint)
				}
				return nil
			})
			return killed, 0
		}},
		{name: fmt.Sprintf("asleep for %.0f s, the router forgets its mappings", sleep.Seconds()), gap: wakeWithin, change: func(t *testing.T, s *site) (time.Time, time.Duration) {
			began := time.Now()
			s.a.Up.Signal(syscall.SIGSTOP)
			pass(t, *sleep)
			s.router.Remap(t) // what b sends would have kept them
			s.a.Up.Signal(syscall.SIGCONT)
			return time.Now(), time.Since(began)
		}},
	}
}

// pass lets time go by: events last as long as they are said to.
func pass(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-t.Context().Done():
	case <-time.After(d):
	}
}

// killRelay ends the relay that packets go through, or while they need none the
// one that a is at home at, and returns its URL.
func (s *site) killRelay(t *testing.T) (url string) {
	t.Helper()
	status := s.a.Status(t)
	used := status.Self.Relay
	if status.Peers[0].Path == relay {
		used = status.Peers[0].Endpoint
	}
	for i, p := range s.net.Relays {
		if used == hosttest.RelayURL(i) {
			p.Signal(syscall.SIGKILL)
			p.Wait(t, 5*time.Second)
			return used
		}
	}
	t.Fatalf("which relay is %q?", used)
	return ""
}

// An ssh session and an iperf3 live through each change of the network.
func TestNetnsEvents(t *testing.T) {
	for _, tool := range []string{"ssh", "sshd", "iperf3", "conntrack"} {
		nstest.Require(t, tool)
	}
	list, busy := events(), slots()
	outcomes := make([]outcome, len(list))
	t.Cleanup(func() { writeTable(t, "events", eventTable(outcomes)) })
	for i, e := range list {
		outcomes[i].event = e
		if !*full && !e.quick {
			continue
		}
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			busy <- struct{}{}
			defer func() { <-busy }()
			outcomes[i] = e.run(t)
		})
	}
}

// iperfPort is where the iperf3 server listens.
const iperfPort = "5299"

// run makes two networks with a session between them, changes one and watches.
func (e event) run(t *testing.T) outcome {
	s := e.site(t)
	bob := s.a.Status(t).Peers[0]
	_, key := s.b.Sshd(t)
	s.shell = s.a.SSHSession(t, key, bob.IPv6, tick)
	s.b.IperfServer(t, iperfPort)
	s.load = s.a.Spawn(t, "iperf3", "-c", bob.IPv6, "-p", iperfPort, "-t", "3600", "-b", "5M", "-i", fmt.Sprint(patience(200*time.Millisecond).Seconds()), "-l", "16K", "--forceflush", "--connect-timeout", "30000")
	hosttest.Eventually(t, 10*time.Second, "iperf3 sends", func() error { return sending(s.load) })
	s.shell.Forget()

	possible, dead := e.change(t, s)
	o := outcome{event: e, ran: true, back: s.watch(t, possible, e.want())}
	if o.back > backWithin {
		t.Errorf("%s again after %v, want at most %v", e.want(), o.back, backWithin)
	}
	if err := s.shell.Alive(); err != nil {
		t.Fatal(err)
	}
	_, o.gap = s.shell.State()
	if o.gap > dead+e.gap {
		t.Errorf("longest gap %v, want at most %v beyond the %v when nothing could pass", o.gap, e.gap, dead)
	}
	o.load = "lives"
	if s.load.Exited() {
		t.Errorf("iperf3 ended:\n%s", s.load.Output())
		o.load = "ends"
	}
	t.Logf("longest gap %v, back after %v", o.gap, o.back)
	return o
}

// want is the path before and after.
func (e event) want() string {
	if e.path == "" {
		return direct
	}
	return e.path
}

// site is two connected nodes, behind routers whose mappings last 10 s.
func (e event) site(t *testing.T) *site {
	t.Helper()
	kind := e.nets
	if kind == "" {
		kind = hosttest.Easy
	}
	s := &site{world: newWorld(t)}
	s.cable, s.router = s.join(t, s.a, hosttest.RouterConfig{Kind: kind, LAN: 1, Timeout: 10})
	s.join(t, s.b, hosttest.RouterConfig{Kind: cmp.Or(e.far, hosttest.Easy), LAN: 2, Timeout: 10})
	for _, n := range []*node{s.a, s.b} {
		n.flags = append(n.flags, "--relay", hosttest.RelayURL(1))
	}
	s.start(t)
	s.meet(t)
	s.a.AwaitPath(t, directGiveUp/nstest.Slack, e.want())
	return s
}

// watch looks at both sides and the session until all has been well for a while
// and returns how long after the given time the last trouble was seen.
func (s *site) watch(t *testing.T, since time.Time, path string) time.Duration {
	t.Helper()
	trouble := since
	var last error
	for time.Since(trouble) < calm && time.Since(since) < 3*backWithin {
		if err := s.well(t, path); err != nil {
			trouble, last = time.Now(), err
		}
		pass(t, 50*time.Millisecond)
	}
	if took := trouble.Sub(since); took > backWithin {
		t.Logf("after %v: %v", took, last)
	}
	return trouble.Sub(since)
}

// patience is d when the table of the documentation is made, on a quiet machine. Else
// the machine may be slow.
func patience(d time.Duration) time.Duration {
	if *full {
		return d
	}
	return nstest.Slack * d
}

// well returns nil when both nodes have the path that they had before, output
// flows and iperf3 sends.
func (s *site) well(t *testing.T, path string) error {
	t.Helper()
	if silent := s.shell.Silence(); silent > patience(300*time.Millisecond) {
		return fmt.Errorf("no line for %v", silent)
	}
	return errors.Join(sending(s.load), s.a.OnPath(t, path), s.b.OnPath(t, path))
}

// sending returns nil if iperf3 got rid of something in the last interval that it
// reported.
func sending(p *hosttest.Process) error {
	report := strings.LastIndex(p.Output(), "bits/sec")
	if p.Exited() || report < 0 || strings.HasSuffix(p.Output()[:report], " 0.00 ") {
		return errors.New(p.Output())
	}
	return nil
}

// eventTable is the table of all events that ran.
func eventTable(outcomes []outcome) []string {
	lines := []string{
		"| event | path before and after | longest gap | back after | iperf3 |",
		"|---|---|--:|--:|---|",
	}
	for _, o := range outcomes {
		if o.ran {
			lines = append(lines, fmt.Sprintf("| %s | %s | %s | %s | %s |", o.name, o.want(), seconds(o.gap), seconds(o.back), o.load))
		}
	}
	return lines
}
