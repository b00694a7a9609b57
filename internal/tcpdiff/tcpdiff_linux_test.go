package tcpdiff

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/hosttest"
	"github.com/nodetun/nodetun/internal/nstest"
	"golang.org/x/sys/unix"
)

var (
	scripts   = flag.Int("scripts", 150, "how many scripts each path runs")
	firstSeed = flag.Uint64("seed", 1, "of the first script")
	oneScript = flag.String("script", "", "file with a script to run alone")
)

func TestMain(m *testing.M) { os.Exit(hosttest.Main(m)) }

// How long the effects of a call may take: over the cable and through the tunnel. The
// first is what costs least, the last is what counts.
var settles = []struct{ cable, tunnel time.Duration }{
	{3 * time.Millisecond, 25 * time.Millisecond},
	{10 * time.Millisecond, 150 * time.Millisecond},
	{50 * time.Millisecond, 600 * time.Millisecond},
}

// atOnce is how many scripts run side by side. Each has ports of its own below 1024.
const atOnce = 24

func TestNetnsDirect(t *testing.T) { compare(t, false) }
func TestNetnsRelay(t *testing.T)  { compare(t, true) }

// compare runs the corpus and the scripts from the seed on, over IPv4 and IPv6.
func compare(t *testing.T, relayed bool) {
	l := newLab(t, relayed)
	for _, p := range l.pairs {
		t.Run(p.name, func(t *testing.T) {
			if *oneScript != "" {
				s := read(t, *oneScript)
				p.show(t, s)
				p.all(t, slices.Repeat([]item{{*oneScript, s}}, *scripts))
				return
			}
			var queue []item
			files, _ := filepath.Glob("testdata/*.txt")
			for _, file := range files {
				queue = append(queue, item{file, read(t, file)})
			}
			for seed := *firstSeed; seed < *firstSeed+uint64(*scripts); seed++ {
				queue = append(queue, item{fmt.Sprintf("seed %d", seed), Generate(seed)})
			}
			p.all(t, queue)
		})
	}
}

type item struct {
	name   string
	script Script
}

func read(t *testing.T, file string) Script {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Parse(string(text))
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return s
}

// lab is two hosts on one network that are peers.
type lab struct{ pairs []*pair }

// pair is the cable and the tunnel between two hosts, of one IP version.
type pair struct {
	name          string
	cable, tunnel Path
	// used counts runs: each has a server port and low ports that had a rest.
	used atomic.Uint32
}

func newLab(t *testing.T, relayed bool) *lab {
	nstest.RequireRoot(t)
	a, b := hosttest.New(t, "a"), hosttest.New(t, "b")
	net := hosttest.NewInternet(t)
	net.StartRelay(t, 0)
	cables := [2]hosttest.Cable{net.Join(t, a), net.Join(t, b)}
	addrs, v6 := [2]string{}, [2]string{"2001:db8::a", "2001:db8::b"}
	want := "relay"
	if !relayed {
		want = "direct"
	}
	for i, h := range []*hosttest.Host{a, b} {
		host, _, _ := strings.Cut(cables[i].Addr, "/")
		addrs[i] = host
		if relayed {
			h.NS.Nft(t, "table inet relayed {\n chain out {\n type filter hook output priority 0\n oifname != \"lo\" meta l4proto udp drop\n }\n}\n")
		}
		h.NS.Run(t, "ip", "addr", "add", v6[i]+"/64", "dev", cables[i].Dev, "nodad")
		// Both hosts say how busy they are by SYN cookies, which forget options.
		h.NS.Run(t, "sysctl", "-qw", "net.ipv4.tcp_max_syn_backlog=4096", "net.ipv4.ip_local_port_range=30000 65000")
	}
	hosttest.Befriend(t, a, addrs[0]+":41820", b, addrs[1]+":41820", "--allow", "all")
	for _, h := range []*hosttest.Host{a, b} {
		h.Start(t, "--relay", hosttest.RelayURL(0), "--discovery", "none")
	}
	a.AwaitPath(t, 10*time.Second, want)
	alice, bob := b.Status(t).Peers[0], a.Status(t).Peers[0]

	sockets := [2]func(int) (int, error){serve(t, a), serve(t, b)}
	path := func(client, server string) Path {
		return Path{Client: netip.MustParseAddr(client), Server: netip.MustParseAddr(server), ClientSocket: sockets[0], ServerSocket: sockets[1]}
	}
	return &lab{[]*pair{
		{name: "IPv4", cable: path(addrs[0], addrs[1]), tunnel: path(alice.IPv4, bob.IPv4)},
		{name: "IPv6", cable: path(v6[0], v6[1]), tunnel: path(alice.IPv6, bob.IPv6)},
	}}
}

// serve makes sockets inside the host's namespace.
func serve(t *testing.T, h *hosttest.Host) func(family int) (int, error) {
	type answer struct {
		fd  int
		err error
	}
	asks, answers, done := make(chan int), make(chan answer), make(chan struct{})
	go func() {
		defer close(done)
		h.NS.Do(t, func() {
			for family := range asks {
				fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
				answers <- answer{fd, err}
			}
		})
	}()
	t.Cleanup(func() { close(asks); <-done })
	var mu sync.Mutex
	return func(family int) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		asks <- family
		a := <-answers
		return a.fd, a.err
	}
}

// ports are the next ones.
func (p *pair) ports(slot int) Ports {
	n := p.used.Add(1)
	return Ports{Server: uint16(2000 + n%20_000), Low: uint16(600 + slot*(maxConns+1)), High: uint16(25_000 + slot*maxConns)}
}

// differs runs a script on both paths, and again with more time as long as they differ.
func (p *pair) differs(s Script, slot int) (cable, tunnel []string, differ bool) {
	for _, settle := range settles {
		overCable, throughTunnel := p.cable, p.tunnel
		overCable.Settle, throughTunnel.Settle = settle.cable, settle.tunnel
		ports := p.ports(slot)
		cable, tunnel = Run(s, overCable, ports), Run(s, throughTunnel, ports)
		if slices.Equal(cable, tunnel) {
			return cable, tunnel, false
		}
	}
	return cable, tunnel, true
}

// all runs scripts side by side and reports the first few that differ, made short.
func (p *pair) all(t *testing.T, queue []item) {
	began := time.Now()
	work := make(chan item)
	var running sync.WaitGroup
	var found, calls atomic.Int64
	for slot := range atOnce {
		running.Go(func() {
			for n := range work {
				calls.Add(int64(len(n.script)))
				if found.Load() >= 8 {
					continue
				}
				cable, tunnel, differ := p.differs(n.script, slot)
				if !differ {
					continue
				}
				found.Add(1)
				whole := sideBySide(n.script, cable, tunnel)
				short := Shrink(n.script, func(s Script) bool {
					_, _, differ := p.differs(s, slot)
					return differ
				})
				cable, tunnel, _ = p.differs(short, slot)
				t.Errorf("%s differs:\n%sshortest:\n%s", n.name, whole, sideBySide(short, cable, tunnel))
			}
		})
	}
	for _, n := range queue {
		work <- n
	}
	close(work)
	running.Wait()
	t.Logf("%d scripts, %d calls, %v, %d goroutines", len(queue), calls.Load(), time.Since(began).Round(time.Millisecond), runtime.NumGoroutine())
}

func (p *pair) show(t *testing.T, s Script) {
	cable, tunnel, _ := p.differs(s, 0)
	t.Logf("\n%s", sideBySide(s, cable, tunnel))
}

func sideBySide(s Script, cable, tunnel []string) string {
	var b strings.Builder
	for i, op := range s {
		mark := "  "
		if cable[i] != tunnel[i] {
			mark = "≠ "
		}
		fmt.Fprintf(&b, "%s%-24s cable %-32s tunnel %s\n", mark, op, cable[i], tunnel[i])
	}
	return b.String()
}
