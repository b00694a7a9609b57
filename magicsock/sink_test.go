package magicsock

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"

	"github.com/quic-go/quic-go"

	"github.com/nodetun/nodetun/identity"
)

// sinkAddr is what a sink tells its parent: where it listens.
type sinkAddr struct {
	ID   identity.NodeID
	Addr netip.AddrPort
}

// bench is the packet socket of one side of a benchmark.
type benchSocket struct {
	conn net.PacketConn
	addr netip.AddrPort
	node *Conn // nil for a plain UDP socket
}

// openBench opens a socket of the kind "udp" or "magicsock" on all addresses.
func openBench(kind string, seed byte) (*benchSocket, error) {
	if kind == "udp" {
		c, err := net.ListenUDP("udp4", nil)
		if err != nil {
			return nil, err
		}
		return &benchSocket{conn: c, addr: c.LocalAddr().(*net.UDPAddr).AddrPort()}, nil
	}
	c, err := New(Config{Key: testKey(seed)})
	if err != nil {
		return nil, err
	}
	v4, _ := c.LocalAddrs()
	return &benchSocket{conn: c.PacketConn(), addr: v4, node: c}, nil
}

// runSink is the receiving process: it says where it listens, swallows unidirectional
// streams, answers the others, and ends when its standard input does.
func runSink(kind string) {
	if err := serveSink(kind); err != nil {
		fmt.Fprintln(os.Stderr, "sink:", err)
		os.Exit(1)
	}
}

func serveSink(kind string) error {
	s, err := openBench(kind, 2)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if s.node != nil {
		go s.node.Run(ctx)
	}
	server, _ := tlsConfigs()
	l, err := (&quic.Transport{Conn: s.conn, ConnectionIDLength: 17}).Listen(server, quicConfig)
	if err != nil {
		return err
	}
	go acceptSink(ctx, l)
	if err := json.NewEncoder(os.Stdout).Encode(sinkAddr{ID: testKey(2).NodeID(), Addr: s.addr}); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	if s.node != nil {
		m := s.node.Metrics().UDP4
		fmt.Fprintf(os.Stderr, "sink: %.1f packets a receive, %.1f a send\n",
			float64(m.RxPackets)/float64(m.RxCalls), float64(m.TxPackets)/float64(m.TxCalls))
	}
	return err
}

func acceptSink(ctx context.Context, l *quic.Listener) {
	for {
		c, err := l.Accept(ctx)
		if err != nil {
			return
		}
		go (&quicPair{acceptor: c}).serveEcho()
		go func() {
			for {
				s, err := c.AcceptUniStream(ctx)
				if err != nil {
					return
				}
				go swallow(c, s)
			}
		}()
	}
}

// swallow reads a stream to its end and says so by a stream of its own.
func swallow(c *quic.Conn, s *quic.ReceiveStream) {
	io.CopyBuffer(struct{ io.Writer }{io.Discard}, s, make([]byte, 256<<10))
	if done, err := c.OpenUniStream(); err == nil {
		done.Write([]byte{1})
		done.Close()
	}
}
