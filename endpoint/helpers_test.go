package endpoint

import (
	"context"
	"crypto/rand"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testALPN = "test/1"

// node is a running endpoint on loopback.
type node struct {
	*Endpoint
	stop func()
}

// loopback returns the configuration of an endpoint with a key of its own.
func loopback() Config {
	return Config{
		Socket: magicsock.Config{
			Key:   identity.GenerateSecretKey(),
			Bind4: netip.MustParseAddrPort("127.0.0.1:0"), Bind6: netip.MustParseAddrPort("[::1]:0"),
		},
		ALPNs: []string{testALPN},
	}
}

// start makes an endpoint and runs it until the test ends.
func start(t testing.TB, cfg Config) *node {
	t.Helper()
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return run(t, e)
}

func run(t testing.TB, e *Endpoint) *node {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	n := &node{Endpoint: e}
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(n.stop)
	return n
}

// addr is what others need to reach the node by IPv4 on loopback.
func (n *node) addr() identity.NodeAddr {
	v4, _ := n.LocalAddrs()
	return identity.NodeAddr{ID: n.NodeID(), Direct: []netip.AddrPort{v4}}
}

// prompt bounds what is to come at once: far less than any time-out of a connection.
const prompt = 10 * time.Second

// withTimeout returns a context for one step of a test.
func withTimeout(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// connect makes a connection from a to b.
func connect(t testing.TB, a, b *node) (dialled, accepted *Connection) {
	t.Helper()
	ctx := withTimeout(t)
	var accept sync.WaitGroup
	var acceptErr error
	accept.Go(func() { accepted, acceptErr = b.Accept(ctx) })
	dialled, err := a.Connect(ctx, b.addr(), testALPN)
	if err != nil {
		t.Fatal(err)
	}
	accept.Wait()
	if acceptErr != nil {
		t.Fatal(acceptErr)
	}
	return dialled, accepted
}

// serveEcho answers streams and datagrams of every connection until the
// endpoint ends.
func serveEcho(n *node) {
	ctx := context.Background()
	go func() {
		for {
			c, err := n.Accept(ctx)
			if err != nil {
				return
			}
			go echoStreams(c)
			go echoDatagrams(c)
		}
	}()
}

func echoStreams(c *Connection) {
	for {
		s, err := c.AcceptStream(context.Background())
		if err != nil {
			return
		}
		go func() {
			defer s.Close()
			buf := make([]byte, 32<<10)
			for {
				k, err := s.Read(buf)
				if k > 0 {
					if _, err := s.Write(buf[:k]); err != nil {
						return
					}
				}
				if err != nil {
					return
				}
			}
		}()
	}
}

func echoDatagrams(c *Connection) {
	for {
		b, err := c.ReceiveDatagram(context.Background())
		if err != nil {
			return
		}
		if err := c.SendDatagram(b); err != nil {
			return
		}
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}
