package engine

import (
	"context"
	"crypto/rand"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nodetun/nodetun/endpoint"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/packet"
	"github.com/nodetun/nodetun/internal/rules"
	"github.com/nodetun/nodetun/internal/vnet"
	"github.com/nodetun/nodetun/internal/wire"
	"github.com/nodetun/nodetun/magicsock"
	"github.com/nodetun/nodetun/netstack"
	"github.com/nodetun/nodetun/routing"
	"github.com/nodetun/nodetun/tun/tuntest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a whole node in this process: an engine on loopback, and a host that
// plays the kernel behind its link.
type node struct {
	id     identity.NodeID
	key    *identity.SecretKey
	engine *Engine
	end    *endpoint.Endpoint
	table  *routing.Table
	host   *fakeHost
	stop   func()
	wait   func() error // for the engine to end by itself
}

// fakeHost plays the programs and the kernel of a node: TCP in a stack of its
// own, everything else as packets.
type fakeHost struct {
	link    *tuntest.Device
	stack   *netstack.Stack
	packets chan []byte
}

var testPool = netip.MustParsePrefix("100.100.0.0/16")

// start makes a running node with the given key (nil: a new one).
func startNode(t *testing.T, key *identity.SecretKey, salt []byte, pool netip.Prefix) *node {
	t.Helper()
	return startNodeWith(t, key, salt, pool, func(*endpoint.Config, *Config) {})
}

// startNodeWith does so with other settings.
func startNodeWith(t *testing.T, key *identity.SecretKey, salt []byte, pool netip.Prefix, change func(*endpoint.Config, *Config)) *node {
	t.Helper()
	if key == nil {
		key = identity.GenerateSecretKey()
	}
	n := &node{id: key.NodeID(), key: key, table: routing.NewTable(key.NodeID(), pool, nil)}
	ends := endpoint.Config{
		ALPNs: []string{wire.ALPN}, SessionALPNs: []string{wire.ALPN}, ResetSalt: salt,
		Socket: magicsock.Config{
			Key: key, Bind4: netip.MustParseAddrPort("127.0.0.1:0"), Bind6: netip.MustParseAddrPort("[::1]:0"),
			Admit:  func(id identity.NodeID) bool { return n.engine.Admit(id) },
			Paired: func(id identity.NodeID) bool { return n.engine.Paired(id) },
		},
	}
	device, kernel := tuntest.Pair()
	cfg := Config{Link: device, Table: n.table, Name: "test"}
	rand.Read(cfg.Instance[:])
	change(&ends, &cfg)
	var err error
	if n.end, err = endpoint.New(ends); err != nil {
		t.Fatal(err)
	}
	cfg.Endpoint = n.end
	if n.engine, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	n.host = startHost(t, kernel)

	ctx, cancel := context.WithCancel(context.Background())
	endDone, engineDone := make(chan error, 1), make(chan error, 1)
	endCtx, endCancel := context.WithCancel(context.Background())
	go func() { endDone <- n.end.Run(endCtx) }()
	go func() { engineDone <- n.engine.Run(ctx) }()
	stopped := false
	n.wait = func() error {
		err := <-engineDone
		engineDone <- nil // for stop
		return err
	}
	n.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-engineDone; err != nil {
			t.Errorf("engine: %v", err)
		}
		endCancel()
		if err := <-endDone; err != nil {
			t.Errorf("endpoint: %v", err)
		}
	}
	t.Cleanup(n.stop)
	return n
}

// startHost plays the kernel at the other end of the link.
func startHost(t *testing.T, link *tuntest.Device) *fakeHost {
	t.Helper()
	h := &fakeHost{link: link, packets: make(chan []byte, 1024)}
	stack, err := netstack.New(netstack.Config{
		MTU: DefaultMTU, Write: link.Write,
		Accept: func(p *netstack.Pending) {
			port := p.Dst().Port()
			if port != echoPort && port != deafPort {
				p.Reset()
				return
			}
			flow, err := p.Accept()
			if err != nil {
				return
			}
			defer flow.Close()
			if port == deafPort {
				<-flow.Broken()
				return
			}
			buf := make([]byte, 32<<10)
			for {
				k, err := flow.Read(buf)
				if k > 0 {
					flow.Write(buf[:k])
				}
				if err != nil {
					flow.CloseWrite()
					return
				}
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	h.stack = stack
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, vnet.HeaderLen+vnet.MaxPacket)
		for {
			header, ip, err := link.Read(buf)
			if err != nil {
				return
			}
			if i, err := packet.Parse(ip); err == nil && i.Proto == protoTCP {
				stack.Inject(header, ip)
				continue
			}
			select {
			case h.packets <- append([]byte(nil), ip...):
			default:
			}
		}
	}()
	t.Cleanup(func() {
		link.Close()
		<-done
		stack.Close()
	})
	return h
}

// Ports of every fake host: one echoes, at one nobody reads or ends anything.
const (
	echoPort = 7
	deafPort = 7001
)

// addr is where the node listens.
func (n *node) addr() identity.NodeAddr {
	v4, v6 := n.end.LocalAddrs()
	return identity.NodeAddr{ID: n.id, Direct: []netip.AddrPort{v4, v6}}
}

// know makes other a peer of n with the given rules.
func (n *node) know(t *testing.T, other *node, allow ...string) {
	t.Helper()
	n.knowAt(t, other.id, other.addr(), allow...)
}

func (n *node) knowAt(t *testing.T, id identity.NodeID, addr identity.NodeAddr, allow ...string) {
	t.Helper()
	if _, err := n.table.Add(id); err != nil {
		t.Fatal(err)
	}
	r, err := rules.Parse(allow)
	if err != nil {
		t.Fatal(err)
	}
	n.engine.SetPeers([]Peer{{ID: id, Rules: r, Addr: addr}})
}

// meet makes two nodes peers of each other, of which a dials.
func meet(t *testing.T, allow ...string) (a, b *node) {
	t.Helper()
	a = startNode(t, nil, nil, testPool)
	b = startNode(t, nil, nil, netip.MustParsePrefix("198.18.0.0/16"))
	b.knowAt(t, a.id, identity.NodeAddr{}, allow...)
	a.know(t, b, "all")
	return a, b
}

// state is n's state of its only peer.
func (n *node) state() PeerState { return n.engine.Peers()[0] }

// await waits for a condition, asking every 5 ms for at most a minute.
func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-deadline:
			t.Fatalf("not within a minute: %s", what)
		case <-tick.C:
		}
	}
}

// dial opens a TCP connection from a program on n to other's port.
func (n *node) dial(t *testing.T, other *node, port uint16, v4 bool) (*netstack.Flow, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	self, remote := n.table.Self(), n.entry(t, other)
	src, dst := self.V6, remote.V6
	if v4 {
		src, dst = self.V4, remote.V4
	}
	return n.host.stack.Dial(ctx, netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, port))
}

// entry is how n numbers the other node.
func (n *node) entry(t *testing.T, other *node) routing.Entry {
	t.Helper()
	entry, ok := n.table.Entry(other.id)
	if !ok {
		t.Fatalf("no entry for %s", other.id.Short())
	}
	return entry
}
