package magicsock

import (
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/nstest"
)

// startSink runs another process in the namespace that swallows streams.
func startSink(b testing.TB, ns *nstest.NS, kind string) (addr sinkAddr, cpu func() time.Duration) {
	b.Helper()
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := ns.Cmd(context.Background(), exe)
	cmd.Env = append(os.Environ(), "NODETUN_TEST_SINK="+kind)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	stop := sync.OnceFunc(func() { stdin.Close(); cmd.Wait() })
	b.Cleanup(stop)
	if err := json.NewDecoder(stdout).Decode(&addr); err != nil {
		b.Fatal(err)
	}
	return addr, func() time.Duration {
		stop()
		r := cmd.ProcessState.SysUsage().(*syscall.Rusage)
		return time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
}

// dialSink connects to a sink at host from the namespace.
func dialSink(b testing.TB, ns *nstest.NS, kind, host string, sink sinkAddr) *quic.Conn {
	b.Helper()
	var s *benchSocket
	var err error
	ns.Do(b, func() { s, err = openBench(kind, 1) })
	if err != nil {
		b.Fatal(err)
	}
	at := netip.AddrPortFrom(netip.MustParseAddr(host), sink.Addr.Port())
	var remote net.Addr = net.UDPAddrFromAddrPort(at)
	if s.node != nil {
		run(b, s.node)
		if err := s.node.AddNodeAddr(identity.NodeAddr{ID: sink.ID, Direct: []netip.AddrPort{at}}, "test"); err != nil {
			b.Fatal(err)
		}
		remote = s.node.MappedAddr(sink.ID)
	} else {
		b.Cleanup(func() { s.conn.Close() })
	}
	_, client := tlsConfigs()
	tr := &quic.Transport{Conn: s.conn, ConnectionIDLength: 17}
	b.Cleanup(func() { tr.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := tr.Dial(ctx, remote, client, quicConfig)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.CloseWithError(0, "") })
	return c
}

// push sends n bytes and waits until the sink has them.
func push(b testing.TB, c *quic.Conn, n int) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := c.OpenUniStreamSync(ctx)
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 256<<10)
	for left := n; left > 0; {
		k, err := s.Write(buf[:min(left, len(buf))])
		if err != nil {
			b.Fatal(err)
		}
		left -= k
	}
	s.Close()
	if _, err := c.AcceptUniStream(ctx); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkNetnsStream is raw quic-go from one process to another:
//
//	a 10.99.0.1 ── veth ── 10.99.0.2 b
func BenchmarkNetnsStream(b *testing.B) {
	const size = 512 << 20
	for _, kind := range []string{"udp", "magicsock"} {
		for _, streams := range []int{1, 4} {
			b.Run(kind+"/"+[]string{1: "one", 4: "four"}[streams], func(b *testing.B) {
				na, nb := nstest.New(b, "a"), nstest.New(b, "b")
				nstest.Veth(b, na, "10.99.0.1/24", nb, "10.99.0.2/24")
				sink, sinkCPU := startSink(b, nb, kind)
				c := dialSink(b, na, kind, "10.99.0.2", sink)
				push(b, c, 64<<20)
				b.SetBytes(size)
				cpu := cpuTime()
				for b.Loop() {
					var wg sync.WaitGroup
					for range streams {
						wg.Go(func() { push(b, c, size/streams) })
					}
					wg.Wait()
				}
				cpu = cpuTime() - cpu + sinkCPU()
				b.ReportMetric(cpu.Seconds()/(float64(b.N)*size/(1<<30)), "cpu-s/GiB")
				b.ReportMetric(float64(b.N)*size*8/b.Elapsed().Seconds()/1e9, "Gbit/s")
				stats := c.ConnectionStats()
				b.ReportMetric(100*float64(stats.PacketsLost)/float64(stats.PacketsSent), "%lost")
				b.ReportMetric(float64(stats.CongestionWindow)/1000, "cwnd-kB")
				b.ReportMetric(float64(stats.SmoothedRTT.Microseconds()), "srtt-µs")
			})
		}
	}
}

// BenchmarkNetnsEcho is a request and an answer of 100 bytes on a stream.
func BenchmarkNetnsEcho(b *testing.B) {
	for _, kind := range []string{"udp", "magicsock"} {
		b.Run(kind, func(b *testing.B) {
			na, nb := nstest.New(b, "a"), nstest.New(b, "b")
			nstest.Veth(b, na, "10.99.0.1/24", nb, "10.99.0.2/24")
			sink, _ := startSink(b, nb, kind)
			p := &quicPair{dialler: dialSink(b, na, kind, "10.99.0.2", sink)}
			var times []time.Duration
			for b.Loop() {
				began := time.Now()
				if err := p.echo(b.Context(), 100); err != nil {
					b.Fatal(err)
				}
				times = append(times, time.Since(began))
			}
			slices.Sort(times)
			b.ReportMetric(float64(times[len(times)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(times[len(times)*99/100].Microseconds()), "p99-µs")
		})
	}
}

// TestNetnsDirectAddrs plays a host with a cable, a TUN of ours and a
// container's end, whose address changes:
//
//	a eth 10.99.0.1 ── veth ── b ; a tun9 100.100.0.1 ; a eth 100.100.0.9 (in the overlay's prefix)
func TestNetnsDirectAddrs(t *testing.T) {
	na, nb := nstest.New(t, "a"), nstest.New(t, "b")
	eth, _ := nstest.Veth(t, na, "10.99.0.1/24", nb, "10.99.0.2/24")
	na.Run(t, "ip", "addr", "add", "100.100.0.9/32", "dev", eth)
	na.Run(t, "ip", "link", "add", "tun9", "type", "veth", "peer", "name", "veth99")
	na.Run(t, "ip", "addr", "add", "10.77.0.1/24", "dev", "tun9")
	na.Run(t, "ip", "link", "set", "tun9", "up")
	changed := make(chan struct{}, 8)
	var c *Conn
	var err error
	na.Do(t, func() {
		c, err = New(Config{
			Key: testKey(1), TunPrefixes: []netip.Prefix{netip.MustParsePrefix("100.100.0.0/16")},
			ExcludeLink:   func(name string) bool { return name == "tun9" },
			OnAddrsChange: func() { changed <- struct{}{} },
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	n := run(t, c)
	v4, _ := n.LocalAddrs()
	at := func(ip string) DirectAddr {
		return DirectAddr{netip.AddrPortFrom(netip.MustParseAddr(ip), v4.Port()), AddrLocal}
	}
	if got, want := n.DirectAddrs(), []DirectAddr{at("10.99.0.1")}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	own := n.addrs.own()
	for _, ip := range []string{"10.99.0.1", "10.77.0.1", "100.100.0.9", "127.0.0.1"} {
		if !slices.Contains(own, at(ip).Addr) {
			t.Errorf("%s is not among our own: %v", ip, own)
		}
	}
	for len(changed) > 0 {
		<-changed
	}
	na.Run(t, "ip", "addr", "add", "10.99.0.77/24", "dev", eth)
	waitFor(t, "the new address", func() bool { return slices.Contains(n.DirectAddrs(), at("10.99.0.77")) })
	<-changed
	na.Run(t, "ip", "addr", "flush", "dev", eth)
	waitFor(t, "no address at all, loopback is of no use to others", func() bool { return len(n.DirectAddrs()) == 0 })
}
