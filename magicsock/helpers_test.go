package magicsock

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/nodetun/nodetun/identity"
)

func TestMain(m *testing.M) {
	if kind := os.Getenv("NODETUN_TEST_SINK"); kind != "" {
		runSink(kind) // another process of a benchmark
		return
	}
	goleak.VerifyTestMain(m)
}

// testNode is a running Conn.
type testNode struct {
	*Conn
	id   identity.NodeID
	stop func()
}

// loopbackConfig binds to loopback, on a free port.
func loopbackConfig(seed byte) Config {
	return Config{
		Key:   testKey(seed),
		Bind4: netip.MustParseAddrPort("127.0.0.1:0"),
		Bind6: netip.MustParseAddrPort("[::1]:0"),
	}
}

func testKey(seed byte) *identity.SecretKey {
	bytes := make([]byte, 32)
	bytes[31] = seed
	key, err := identity.SecretKeyFromSeed(bytes)
	if err != nil {
		panic(err)
	}
	return key
}

// start makes a Conn and runs it until the test ends.
func start(t testing.TB, cfg Config) *testNode {
	t.Helper()
	if os.Getenv("NODETUN_TEST_LOG") != "" {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return run(t, c)
}

func run(t testing.TB, c *Conn) *testNode {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	n := &testNode{Conn: c, id: c.self}
	stopped := false
	n.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
	t.Cleanup(n.stop)
	return n
}

// direct is what others need to reach the node by IPv4 on loopback.
func (n *testNode) direct() identity.NodeAddr {
	v4, _ := n.LocalAddrs()
	return identity.NodeAddr{ID: n.id, Direct: []netip.AddrPort{v4}}
}
