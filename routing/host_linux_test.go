//go:build linux

package routing_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/nodetun/nodetun/internal/nstest"
	"github.com/nodetun/nodetun/routing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	own6 = "fd6e:6f64:6574::aa"
	own4 = "100.100.7.7"
)

func hostConfig(log *slog.Logger) routing.HostConfig {
	return routing.HostConfig{
		Link:   "nt0",
		Addrs:  prefixes(own6+"/128", own4+"/32"),
		Routes: prefixes("fd6e:6f64:6574::/48", "100.100.0.0/16"),
		MTU:    1280,
		Logger: log,
	}
}

// openTUN makes a TUN device nt0 in the namespace of the calling thread.
func openTUN(t *testing.T) *os.File {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Skipf("needs /dev/net/tun: %v", err)
	}
	req, err := unix.NewIfreq("nt0")
	if err != nil {
		t.Fatal(err)
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		unix.Close(fd)
		t.Skipf("needs a TUN device: %v", err)
	}
	return os.NewFile(uintptr(fd), "nt0")
}

// buffer is a log that may be read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// bed is a namespace with a TUN device nt0 and a Host for it.
type bed struct {
	*nstest.NS
	host *routing.Host
	log  buffer
}

func newBed(t *testing.T) *bed {
	t.Helper()
	b := &bed{NS: nstest.New(t, "routing")}
	b.Do(t, func() {
		tun := openTUN(t)
		t.Cleanup(func() { tun.Close() })
	})
	host, err := routing.NewHost(hostConfig(slog.New(slog.NewTextHandler(&b.log, nil))))
	if err != nil {
		t.Fatal(err)
	}
	b.host = host
	return b
}

func (b *bed) apply(t *testing.T) {
	t.Helper()
	b.Do(t, func() {
		if err := b.host.Apply(); err != nil {
			t.Fatal(err)
		}
	})
}

// run starts Host.Run inside the namespace; it ends with the test.
func (b *bed) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		b.Do(t, func() {
			if err := b.host.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		if err := b.host.Undo(); err != nil {
			t.Error(err)
		}
	})
}

// broken returns what the overlay lacks, "" when it is complete.
func (b *bed) broken(t *testing.T) string {
	t.Helper()
	var missing []string
	for _, c := range []struct{ what, cmd, want string }{
		{"up", "ip link show dev nt0", ",UP"},
		{"mtu", "ip link show dev nt0", "mtu 1280"},
		{"ipv6", "ip -6 addr show dev nt0", own6 + "/128"},
		{"ipv4", "ip -4 addr show dev nt0", own4 + "/32"},
		{"route4", "ip -4 route show dev nt0", "100.100.0.0/16"},
		{"route6", "ip -6 route show dev nt0", "fd6e:6f64:6574::/48"},
		{"source4", "ip route get 100.100.1.1", "dev nt0 src " + own4},
		{"source6", "ip route get fd6e:6f64:6574::1", "src " + own6},
	} {
		if out, _ := b.Try(strings.Fields(c.cmd)...); !strings.Contains(out, c.want) {
			missing = append(missing, fmt.Sprintf("%s (%s)", c.what, strings.TrimSpace(out)))
		}
	}
	return strings.Join(missing, "; ")
}

// until polls a condition and fails the test after the limit.
// until waits for ok, at most nstest.Slack times limit.
func until(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	limit *= nstest.Slack
	start := time.Now()
	for ctx := t.Context(); !ok(); {
		if time.Since(start) > limit {
			t.Fatalf("%s: not within %s", what, limit)
		}
		pause(ctx, 20*time.Millisecond)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func TestNetnsApplyAndUndo(t *testing.T) {
	b := newBed(t)
	before := b.Run(t, "ip", "-o", "addr")
	b.apply(t)
	if s := b.broken(t); s != "" {
		t.Errorf("after Apply: %s", s)
	}
	if out := b.Run(t, "ip", "-6", "addr", "show", "dev", "nt0"); !strings.Contains(out, "nodad") || !strings.Contains(out, "noprefixroute") || strings.Contains(out, "fe80") {
		t.Errorf("flags of the IPv6 address:\n%s", out)
	}
	if p := b.host.Problems(); p != nil {
		t.Errorf("problems %v", p)
	}
	b.apply(t) // once more changes nothing
	if err := b.host.Undo(); err != nil {
		t.Fatal(err)
	}
	if after := b.Run(t, "ip", "-o", "addr"); after != before {
		t.Errorf("addresses before:\n%safter:\n%s", before, after)
	}
	for _, family := range []string{"-4", "-6"} {
		if out := b.Run(t, "ip", family, "route", "show", "dev", "nt0"); out != "" {
			t.Errorf("routes left: %s", out)
		}
	}
	if out := b.Run(t, "ip", "link", "show", "dev", "nt0"); strings.Contains(out, ",UP") {
		t.Errorf("the link stayed up: %s", out)
	}
	if err := b.host.Undo(); err != nil {
		t.Errorf("second Undo: %v", err)
	}
	b.apply(t)
	if s := b.broken(t); s != "" {
		t.Errorf("after the second Apply: %s", s)
	}
	if err := b.host.Undo(); err != nil {
		t.Fatal(err)
	}
}

func TestNetnsWhatIsDeletedComesBack(t *testing.T) {
	b := newBed(t)
	b.apply(t)
	b.run(t)
	for _, attack := range []string{
		"ip route del 100.100.0.0/16 dev nt0",
		"ip -6 route del fd6e:6f64:6574::/48 dev nt0",
		"ip addr del " + own4 + "/32 dev nt0",
		"ip addr del " + own6 + "/128 dev nt0",
		"ip addr flush dev nt0",
		"ip route flush dev nt0",
		"ip link set nt0 down",
		"ip link set nt0 mtu 1400",
		"ip link set nt0 mtu 600", // below IPv6's minimum: the kernel drops IPv6 from the link
	} {
		t.Run(attack, func(t *testing.T) {
			b.Run(t, strings.Fields(attack)...)
			start := time.Now()
			until(t, 2*time.Second, b.broken(t), func() bool { return b.broken(t) == "" })
			t.Logf("back after %s", time.Since(start).Round(time.Millisecond))
		})
	}
	if !strings.Contains(b.log.String(), "put back") {
		t.Errorf("nothing logged:\n%s", b.log.String())
	}
}

// Somebody deletes the route in a loop: Run must not spin, and wins when he
// stops.
func TestNetnsFightIsBounded(t *testing.T) {
	b := newBed(t)
	b.apply(t)
	b.run(t)
	b.Run(t, "sh", "-c", "for i in $(seq 200); do ip route del 100.100.0.0/16 dev nt0 2>/dev/null; done; true")
	until(t, 2*time.Second, "route", func() bool { return b.broken(t) == "" })
	if n := strings.Count(b.log.String(), "put back"); n > 60 {
		t.Errorf("%d repairs", n)
	}
}

// nt0 ── host ── veth 100.100.3.1/12: the laptop roams into a network that
// holds our pool.
func TestNetnsNeverShadowsAttachedPrefix(t *testing.T) {
	b, other := newBed(t), nstest.New(t, "lan")
	veth, lan := nstest.Veth(t, b.NS, "", other, "100.100.3.2/12")
	b.apply(t)
	b.run(t)
	b.Run(t, "ip", "addr", "add", "100.100.3.1/12", "dev", veth)
	// Its packets are no forged ones of the overlay.
	heard := func() bool {
		_, err := b.Try("ping", "-c1", "-W1", "100.100.3.2")
		return err == nil
	}
	until(t, 5*time.Second, "the LAN is reachable", func() bool {
		out, _ := b.Try("ip", "route", "get", "100.100.3.2")
		return strings.Contains(out, "dev "+veth) && heard()
	})
	until(t, 2*time.Second, "the problem is told", func() bool {
		p := b.host.Problems()
		return len(p) == 1 && strings.Contains(p[0].Text, "100.96.0.0/12")
	})
	if out := b.Run(t, "ip", "-6", "route", "show", "dev", "nt0"); !strings.Contains(out, "fd6e:6f64:6574::/48") {
		t.Errorf("IPv6 suffered: %s", out)
	}
	b.Run(t, "ip", "addr", "del", "100.100.3.1/12", "dev", veth)
	until(t, 2*time.Second, "the pool is back", func() bool { return b.broken(t) == "" && b.host.Problems() == nil })

	// A smaller network inside the pool stays reachable by itself.
	b.Run(t, "ip", "addr", "add", "100.100.3.1/24", "dev", veth)
	until(t, 2*time.Second, "both", func() bool {
		out, _ := b.Try("ip", "route", "get", "100.100.3.2")
		return strings.Contains(out, "dev "+veth) && b.broken(t) == ""
	})
	other.Run(t, "ip", "addr", "add", "100.100.3.9/24", "dev", lan)
	until(t, 5*time.Second, "its hosts answer", func() bool {
		_, err := b.Try("ping", "-c1", "-W1", "100.100.3.9")
		return err == nil
	})
}

func TestNetnsForeignRouteIsKept(t *testing.T) {
	b, other := newBed(t), nstest.New(t, "lan")
	veth, _ := nstest.Veth(t, b.NS, "10.77.0.1/24", other, "10.77.0.2/24")
	b.Run(t, "ip", "route", "add", "100.100.0.0/16", "via", "10.77.0.2")
	b.apply(t)
	if p := b.host.Problems(); len(p) != 1 || !strings.Contains(p[0].Text, "not ours") {
		t.Errorf("problems %v", p)
	}
	if err := b.host.Undo(); err != nil {
		t.Fatal(err)
	}
	if out := b.Run(t, "ip", "route", "get", "100.100.1.1"); !strings.Contains(out, veth) {
		t.Errorf("the foreign route is gone: %s", out)
	}
}

func TestNetnsWithoutIPv6(t *testing.T) {
	b := newBed(t)
	b.Run(t, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
	b.apply(t)
	b.run(t)
	p := b.host.Problems()
	if len(p) != 1 || !strings.Contains(p[0].Text, "ipv6 is disabled") || !strings.Contains(p[0].Fix, "disable_ipv6=0") {
		t.Errorf("problems %v", p)
	}
	if out := b.Run(t, "ip", "route", "get", "100.100.1.1"); !strings.Contains(out, "src "+own4) {
		t.Errorf("IPv4 does not work: %s", out)
	}
	b.Run(t, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=0")
	until(t, 2*time.Second, "IPv6 after it is switched on", func() bool { return b.broken(t) == "" && b.host.Problems() == nil })
}

func TestNetnsLinkGone(t *testing.T) {
	b := newBed(t)
	b.apply(t)
	b.run(t)
	b.Run(t, "ip", "link", "del", "nt0")
	until(t, 2*time.Second, "the problem is told", func() bool {
		p := b.host.Problems()
		return len(p) == 1 && strings.Contains(p[0].Text, routing.ErrLinkGone.Error())
	})
}

func TestNetnsNoLink(t *testing.T) {
	ns := nstest.New(t, "nolink")
	host, err := routing.NewHost(hostConfig(nil))
	if err != nil {
		t.Fatal(err)
	}
	ns.Do(t, func() { err = host.Apply() })
	if !errors.Is(err, routing.ErrLinkGone) {
		t.Errorf("error %v", err)
	}
	if err := host.Undo(); err != nil {
		t.Error(err)
	}
}

func TestNetnsHostNetworks(t *testing.T) {
	b, other := newBed(t), nstest.New(t, "lan")
	uplink, _ := nstest.Veth(t, b.NS, "10.77.0.1/24", other, "10.77.0.2/24")
	b.Run(t, "ip", "route", "add", "default", "via", "10.77.0.2")
	b.Run(t, "ip", "route", "add", "198.18.4.0/24", "via", "10.77.0.2")
	b.Run(t, "ip", "route", "add", "10.214.0.0/16", "via", "10.77.0.2", "table", "52")
	b.Run(t, "ip", "route", "add", "blackhole", "172.16.0.0/12")
	b.Run(t, "ip", "route", "add", "10.99.0.0/16", "via", "172.29.0.1", "dev", uplink, "onlink")
	b.apply(t)
	defer b.host.Undo()
	var list routing.Networks
	var err error
	b.Do(t, func() { list, err = routing.HostNetworks("nt0") })
	if err != nil {
		t.Fatal(err)
	}
	has := make(map[string]bool)
	for _, p := range list.Used {
		has[p.String()] = true
	}
	if !slices.Equal(list.Null, prefixes("172.16.0.0/12")) {
		t.Errorf("null routes %v", list.Null)
	}
	for _, want := range []string{"10.77.0.0/24", "198.18.4.0/24", "10.214.0.0/16", "127.0.0.0/8", "10.77.0.2/32", "172.29.0.1/32"} {
		if !has[want] {
			t.Errorf("%s is missing in %v", want, list)
		}
	}
	for _, not := range []string{"100.100.0.0/16", "100.100.7.7/32", "0.0.0.0/0", "fd6e:6f64:6574::/48"} {
		if has[not] {
			t.Errorf("%s is in %v", not, list)
		}
	}
	if pool, err := routing.ChoosePool("", list); err != nil || pool.String() != "100.100.0.0/16" { // all others are taken
		t.Errorf("pool %v, %v", pool, err)
	}
}

// BenchmarkNetnsHostNetworks reads what a router with a full table has to do with, and
// chooses a pool, as the start of a node does once.
func BenchmarkNetnsHostNetworks(b *testing.B) {
	ns := nstest.New(b, "routing")
	ns.Run(b, "ip", "link", "add", "up0", "type", "veth", "peer", "name", "far0")
	ns.Run(b, "ip", "link", "set", "up0", "up")
	ns.Run(b, "ip", "addr", "add", "192.0.2.1/24", "dev", "up0")
	for _, count := range []int{100, 100_000} {
		batch := filepath.Join(b.TempDir(), "routes")
		var lines bytes.Buffer
		for i := range count {
			fmt.Fprintf(&lines, "route replace %d.%d.%d.0/24 dev up0\n", 20+i>>16, i>>8&0xff, i&0xff)
		}
		if err := os.WriteFile(batch, lines.Bytes(), 0o600); err != nil {
			b.Fatal(err)
		}
		ns.Run(b, "ip", "-batch", batch)
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			ns.Do(b, func() {
				for b.Loop() {
					list, err := routing.HostNetworks("nt0")
					if err != nil || len(list.Used) < count {
						b.Fatal(len(list.Used), err)
					}
					if _, err := routing.ChoosePool("", list); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

// A change of the packet filter is told, so that somebody looks what it took.
func TestNetnsPacketFilterIsWatched(t *testing.T) {
	b := newBed(t)
	cfg := hostConfig(slog.New(slog.NewTextHandler(&b.log, nil)))
	told := make(chan struct{}, 100)
	cfg.OnChange = func() { told <- struct{}{} }
	var err error
	if b.host, err = routing.NewHost(cfg); err != nil {
		t.Fatal(err)
	}
	b.apply(t)
	b.run(t)
	for quiet := false; !quiet; { // what Apply did is announced too
		select {
		case <-told:
		case <-time.After(time.Second):
			quiet = true
		}
	}
	b.Run(t, "nft", "add table inet t; add chain inet t i { type filter hook input priority 0; }")
	select {
	case <-told:
	case <-time.After(10 * time.Second):
		t.Error("nothing was told")
	}
}

func TestNewHostRefuses(t *testing.T) {
	for name, cfg := range map[string]routing.HostConfig{
		"no link":       {},
		"zero prefix":   {Link: "x", Addrs: []netip.Prefix{{}}},
		"default route": {Link: "x", Routes: prefixes("0.0.0.0/0")},
	} {
		if _, err := routing.NewHost(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestRunBeforeApply(t *testing.T) {
	host, err := routing.NewHost(hostConfig(nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Run(t.Context()); err == nil {
		t.Error("no error")
	}
}
