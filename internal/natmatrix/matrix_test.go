//go:build linux

package natmatrix

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/hosttest"
	"github.com/nodetun/nodetun/internal/nstest"
)

var (
	full  = flag.Bool("full", false, "run every scenario, not only those that stand for the others")
	sleep = flag.Duration("sleep", 20*time.Second, "how long the laptop that falls asleep does so; mappings last 10 s")
	doc   = flag.String("doc", "", "file that gets the tables of what was measured")
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(hosttest.Main(m))
}

// Limits of a scenario.
const (
	firstWithin  = nstest.Slack * time.Second     // first reply, with a relay known
	directWithin = nstest.Slack * 3 * time.Second // first direct path, where one is expected
	directGiveUp = nstest.Slack * 8 * time.Second // how long it is waited for before the test fails
	relaySettles = 10 * time.Second               // for so long a path that must stay relayed is watched
)

// What a scenario is to end with.
const (
	direct = "direct"
	relay  = "relay"
	either = "direct or relay" // by luck: how often is said
)

// result is what was measured in one run of a scenario.
type result struct {
	first, direct time.Duration // direct: 0 if never
	path          string        // in the end, of both sides
}

// row is a line of the table.
type row struct {
	scenario
	runs []result
}

// At most two scenarios run at once: they are for small machines.
func slots() chan struct{} { return make(chan struct{}, 2) }

// Each pair of networks: does it get direct, and when.
func TestNetnsMatrix(t *testing.T) {
	list, busy := scenarios(), slots()
	rows := make([]row, len(list))
	t.Cleanup(func() { writeTable(t, "matrix", matrixTable(rows)) })
	for i, s := range list {
		rows[i].scenario = s
		if !*full && !s.quick {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			busy <- struct{}{}
			defer func() { <-busy }()
			rounds := 1
			if *full && s.want == either {
				rounds = luckyRounds
			}
			for range rounds {
				// Each round in a world of its own, gone when it ends.
				t.Run("", func(t *testing.T) {
					r := s.run(t)
					t.Logf("first reply %v, direct %v, path %s", r.first, r.direct, r.path)
					rows[i].runs = append(rows[i].runs, r)
				})
			}
		})
	}
}

// luckyRounds is how often a scenario is run whose end depends on luck.
const luckyRounds = 5

// run makes the networks, starts both nodes, lets them meet and watches them.
func (s scenario) run(t *testing.T) result {
	world := newWorld(t)
	s.build(t, world)
	world.start(t)
	began := world.meet(t)
	pings := world.a.pingForever(t)

	r := result{first: pings.first(t, directGiveUp).Sub(began)}
	watch := relaySettles
	if s.want == direct {
		watch = directGiveUp
	}
	if at, ok := world.awaitDirect(t, began.Add(watch), s.want == relay); ok {
		r.direct = at.Sub(began)
	}
	r.path = world.path(t)
	s.judge(t, r)
	return r
}

// judge compares what was measured with what is expected.
func (s scenario) judge(t *testing.T, r result) {
	t.Helper()
	if r.first > firstWithin {
		t.Errorf("the first reply came after %v, want at most %v", r.first, firstWithin)
	}
	switch s.want {
	case direct:
		if r.path != direct {
			t.Errorf("path %s, want direct", r.path)
		} else if r.direct > directWithin {
			t.Errorf("direct after %v, want at most %v", r.direct, directWithin)
		}
	case relay:
		if r.path != relay {
			t.Errorf("path %s, want relay", r.path)
		}
	}
}

// node is a host with a nodetun on it.
type node struct {
	*hosttest.Host
	name  string
	flags []string // of `up`
}

// world is two nodes, a and b, and the public network.
type world struct {
	net   *hosttest.Internet
	a, b  *node
	fresh bool // the nodes meet while they are still finding out about their NATs
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{net: hosttest.NewInternet(t)}
	for i := range w.net.Relays {
		w.net.StartRelay(t, i)
	}
	w.a = &node{Host: hosttest.New(t, "a"), name: "alice"}
	w.b = &node{Host: hosttest.New(t, "b"), name: "bob"}
	return w
}

// start runs both nodes and returns when both have a relay and know how
// they are seen from outside.
func (w *world) start(t *testing.T) {
	t.Helper()
	for _, n := range []*node{w.a, w.b} {
		n.Configure(t, fmt.Sprintf("stun = [%q]\nlog_level = \"debug\"\n", hosttest.STUN1))
		n.ID(t)
		n.Start(t, append([]string{"--dns", "none", "--relay", hosttest.RelayURL(0)}, n.flags...)...)
	}
	for _, n := range []*node{w.a, w.b} {
		hosttest.Eventually(t, 10*time.Second, n.name+" has a relay and knows its address", func() error {
			if s := n.Status(t); s.Self.Relay == "" || !w.fresh && !settled(s) {
				return fmt.Errorf("%+v", s.Self)
			}
			return nil
		})
	}
}

// settled says that a node knows how it is seen from outside, or that it is not.
func settled(s hosttest.Status) bool {
	return s.Self.NAT == "blocked" || slices.ContainsFunc(s.Self.DirectAddresses, func(addr string) bool {
		return strings.HasPrefix(addr, "203.0.113.") || strings.HasPrefix(addr, "198.51.")
	})
}

// meet makes the nodes peers and returns the time just before a knew of b: all
// that happens from then on counts.
func (w *world) meet(t *testing.T) (began time.Time) {
	t.Helper()
	a, b := w.a.ID(t), w.b.ID(t)
	w.b.Nodetun(t, "peer", "add", a, "--name", w.a.name, "--allow", "all", "--relay", hosttest.RelayURL(0))
	began = time.Now()
	w.a.Nodetun(t, "peer", "add", b, "--name", w.b.name, "--allow", "all", "--relay", hosttest.RelayURL(0))
	return began
}

// awaitDirect waits until a's path to b is direct. It gives up at the deadline,
// and with stay goes on to it, so that a path that comes late is seen.
func (w *world) awaitDirect(t *testing.T, deadline time.Time, stay bool) (at time.Time, ok bool) {
	t.Helper()
	err := hosttest.Until(time.Until(deadline), func() error { return w.a.OnPath(t, direct) })
	if err != nil {
		return time.Time{}, false
	}
	at = time.Now()
	if stay {
		t.Logf("direct although relay is expected: %v", w.a.Status(t).Peers)
	}
	return at, true
}

// path is the path in the end: that of both sides if they agree, which they
// have two seconds for.
func (w *world) path(t *testing.T) string {
	t.Helper()
	var a, b string
	_ = hosttest.Until(2*time.Second, func() error {
		a, b = pathOf(w.a.Status(t)), pathOf(w.b.Status(t))
		if a != b || a == "mixed" {
			return fmt.Errorf("%s and %s", a, b)
		}
		return nil
	})
	if a == b {
		return a
	}
	return a + "/" + b
}

func pathOf(s hosttest.Status) string {
	if len(s.Peers) != 1 {
		return "none"
	}
	return s.Peers[0].Path
}

// pings is a `nodetun ping` that goes on until the test ends.
type pings struct {
	firstAt chan time.Time
}

// pingForever starts it on the node, towards its peer.
func (n *node) pingForever(t *testing.T) *pings {
	t.Helper()
	peer := "bob"
	if n.name == "bob" {
		peer = "alice"
	}
	p := &pings{firstAt: make(chan time.Time, 1)}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := n.Command(t.Context(), "ping", peer, "--count", "0", "--json")
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer r.Close()
		p.read(r)
	}()
	// t.Context ends before this, and the program with it.
	t.Cleanup(func() {
		_ = cmd.Wait()
		<-done
	})
	return p
}

// read notes when the first reply came.
func (p *pings) read(r io.Reader) {
	lines := json.NewDecoder(bufio.NewReader(r))
	for first := true; ; first = false {
		var reply struct{ Path string }
		if lines.Decode(&reply) != nil {
			return
		}
		if first {
			p.firstAt <- time.Now()
		}
	}
}

// first waits for the first reply.
func (p *pings) first(t *testing.T, within time.Duration) time.Time {
	t.Helper()
	select {
	case at := <-p.firstAt:
		return at
	case <-time.After(within):
		t.Fatalf("no reply within %v", within)
		panic("not reached")
	}
}

// matrixTable is the table of all scenarios that ran.
func matrixTable(rows []row) []string {
	lines := []string{
		"| one side | other side | expected | measured | first reply | direct after |",
		"|---|---|---|---|--:|--:|",
	}
	for _, r := range rows {
		if len(r.runs) == 0 {
			continue
		}
		lines = append(lines, fmt.Sprintf("| %s | %s | %s | %s | %s | %s |", r.a, r.b, r.want, r.measured(), r.worstFirst(), r.worstDirect()))
	}
	return lines
}

// measured tells the path, and how often if there were several runs.
func (r row) measured() string {
	count := map[string]int{}
	for _, one := range r.runs {
		count[one.path]++
	}
	var parts []string
	for path, n := range count {
		if len(r.runs) > 1 {
			path = fmt.Sprintf("%s %d of %d", path, n, len(r.runs))
		}
		parts = append(parts, path)
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

func (r row) worstFirst() string {
	worst := time.Duration(0)
	for _, one := range r.runs {
		worst = max(worst, one.first)
	}
	return seconds(worst)
}

func (r row) worstDirect() string {
	worst := time.Duration(0)
	for _, one := range r.runs {
		worst = max(worst, one.direct)
	}
	if worst == 0 {
		return "–"
	}
	return seconds(worst)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
