package magicsock

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/net/ipv4"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay/relayserver"
	"github.com/nodetun/nodetun/relay/relayserver/relaytest"
)

// The interfaces that quic-go looks for.
var (
	_ quic.OOBCapablePacketConn = (*PacketConn)(nil)
	_ interface {
		ReadBatch([]ipv4.Message, int) (int, error)
		SetWriteBuffer(int) error
	} = (*PacketConn)(nil)
)

var quicConfig = &quic.Config{
	InitialPacketSize:              1200,
	EnableDatagrams:                true,
	InitialStreamReceiveWindow:     8 << 20,
	MaxStreamReceiveWindow:         64 << 20,
	InitialConnectionReceiveWindow: 32 << 20,
	MaxConnectionReceiveWindow:     256 << 20,
}

func tlsConfigs() (server, client *tls.Config) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		panic(err)
	}
	server = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		NextProtos:   []string{"test"}, MinVersion: tls.VersionTLS13,
	}
	client = &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"test"}, MinVersion: tls.VersionTLS13}
	return server, client
}

// quicPair is a QUIC connection over two packet sockets.
type quicPair struct {
	dialler, acceptor *quic.Conn
}

// connect makes a QUIC connection from a to the address of b.
func connect(t testing.TB, a net.PacketConn, b net.PacketConn, addr net.Addr) *quicPair {
	t.Helper()
	server, client := tlsConfigs()
	ta := &quic.Transport{Conn: a, ConnectionIDLength: 17}
	tb := &quic.Transport{Conn: b, ConnectionIDLength: 17}
	t.Cleanup(func() { ta.Close(); tb.Close() })
	l, err := tb.Listen(server, quicConfig)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	p := &quicPair{}
	var wg sync.WaitGroup
	wg.Go(func() { p.acceptor, _ = l.Accept(ctx) })
	p.dialler, err = ta.Dial(ctx, addr, client, quicConfig)
	wg.Wait()
	if err != nil || p.acceptor == nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(func() { p.dialler.CloseWithError(0, ""); p.acceptor.CloseWithError(0, "") })
	return p
}

// transfer sends n bytes on one stream and waits until they have arrived.
func (p *quicPair) transfer(t testing.TB, n int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		s, err := p.dialler.OpenUniStreamSync(ctx)
		if err != nil {
			t.Error(err)
			return
		}
		buf := make([]byte, 256<<10)
		for left := n; left > 0; {
			k, err := s.Write(buf[:min(left, int64(len(buf)))])
			if err != nil {
				t.Error(err)
				return
			}
			left -= int64(k)
		}
		s.Close()
	})
	s, err := p.acceptor.AcceptUniStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	s.SetReadDeadline(time.Now().Add(2 * time.Minute))
	got, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, s, make([]byte, 256<<10))
	if err != nil || got != n {
		t.Fatalf("got %d of %d bytes: %v", got, n, err)
	}
	wg.Wait()
}

// echo is one request and its answer of size bytes each.
func (p *quicPair) echo(ctx context.Context, size int) error {
	s, err := p.dialler.OpenStreamSync(ctx)
	if err != nil {
		return err
	}
	request := make([]byte, size)
	if _, err := s.Write(request); err != nil {
		return err
	}
	s.Close()
	_, err = io.ReadFull(s, request)
	return err
}

// serveEcho answers streams until the connection ends.
func (p *quicPair) serveEcho() {
	for {
		s, err := p.acceptor.AcceptStream(context.Background())
		if err != nil {
			return
		}
		b, _ := io.ReadAll(s)
		s.Write(b)
		s.Close()
	}
}

// meet introduces two nodes to each other by their loopback addresses.
func meet(t testing.TB, a, b *testNode) {
	t.Helper()
	if err := a.AddNodeAddr(b.direct(), "test"); err != nil {
		t.Fatal(err)
	}
	if err := b.AddNodeAddr(a.direct(), "test"); err != nil {
		t.Fatal(err)
	}
}

func TestDirectLoopback(t *testing.T) {
	a, b := start(t, loopbackConfig(1)), start(t, loopbackConfig(2))
	if err := a.AddNodeAddr(b.direct(), "test"); err != nil {
		t.Fatal(err)
	}
	p := connect(t, a.PacketConn(), b.PacketConn(), a.MappedAddr(b.id))
	p.transfer(t, 20<<20)
	info, ok := a.Remote(b.id)
	if !ok || info.Conn.String() != "direct" {
		t.Errorf("path %v, want direct", info.Conn)
	}
	if id, ok := b.NodeOf(p.acceptor.RemoteAddr()); !ok || id != a.id {
		t.Errorf("remote address %v belongs to %v", p.acceptor.RemoteAddr(), id)
	}
	m := a.Metrics()
	if m.UDP4.TxGSO == 0 {
		t.Errorf("no segmentation offload: %+v", m.UDP4)
	}
	if m := b.Metrics(); m.UDP4.RxGRO == 0 {
		t.Errorf("no receive offload: %+v", m.UDP4)
	}
	t.Logf("sender: %.1f packets a call, receiver: %.1f", float64(m.UDP4.TxPackets)/float64(m.UDP4.TxCalls),
		float64(b.Metrics().UDP4.RxPackets)/float64(b.Metrics().UDP4.RxCalls))
}

func BenchmarkStream(b *testing.B) {
	const size = 256 << 20
	for _, bench := range []struct {
		name string
		make func() (from, to net.PacketConn, addr net.Addr)
	}{
		{"udpconn", func() (net.PacketConn, net.PacketConn, net.Addr) {
			x, y := listenUDP(b), listenUDP(b)
			return x, y, y.LocalAddr()
		}},
		{"magicsock", func() (net.PacketConn, net.PacketConn, net.Addr) {
			x, y := start(b, loopbackConfig(1)), start(b, loopbackConfig(2))
			meet(b, x, y)
			return x.PacketConn(), y.PacketConn(), x.MappedAddr(y.id)
		}},
		{"magicsock6", func() (net.PacketConn, net.PacketConn, net.Addr) { // the socket read by a goroutine
			x, y := start(b, loopbackConfig(1)), start(b, loopbackConfig(2))
			_, v6 := y.LocalAddrs()
			if err := x.AddNodeAddr(identity.NodeAddr{ID: y.id, Direct: []netip.AddrPort{v6}}, "test"); err != nil {
				b.Skip(err)
			}
			return x.PacketConn(), y.PacketConn(), x.MappedAddr(y.id)
		}},
		{"relay", func() (net.PacketConn, net.PacketConn, net.Addr) {
			r := relaytest.Start(b, relayserver.Config{})
			x, y := start(b, relayConfig(1, r.URL)), start(b, relayConfig(2, r.URL))
			if err := x.AddNodeAddr(identity.NodeAddr{ID: y.id, Relay: r.URL}, "test"); err != nil {
				b.Fatal(err)
			}
			return x.PacketConn(), y.PacketConn(), x.MappedAddr(y.id)
		}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			from, to, addr := bench.make()
			p := connect(b, from, to, addr)
			p.transfer(b, 16<<20)
			b.SetBytes(size)
			cpu := cpuTime()
			for b.Loop() {
				p.transfer(b, size)
			}
			b.ReportMetric((cpuTime()-cpu).Seconds()/(float64(b.N)*size/(1<<30)), "cpu-s/GiB")
			b.ReportMetric(float64(b.N)*size*8/b.Elapsed().Seconds()/1e9, "Gbit/s")
			stats := p.dialler.ConnectionStats()
			b.ReportMetric(100*float64(stats.PacketsLost)/float64(stats.PacketsSent), "%lost")
		})
	}
}

func listenUDP(t testing.TB) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
