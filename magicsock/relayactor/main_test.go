package relayactor

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
	"github.com/nodetun/nodetun/relay/relayserver"
	"github.com/nodetun/nodetun/relay/relayserver/relaytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of these tests.
const patience = time.Minute

func mustURL(t testing.TB, s string) identity.RelayURL {
	t.Helper()
	u, err := identity.ParseRelayURL(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// packet is one datagram that was delivered.
type packet struct {
	via  identity.RelayURL
	src  identity.NodeID
	data string
}

// node is an Actor that runs until the test ends.
type node struct {
	*Actor
	t   testing.TB
	id  identity.NodeID
	got chan packet
}

func startNode(t testing.TB, cfg Config) *node {
	t.Helper()
	n := &node{t: t, got: make(chan packet, 1000)}
	if cfg.Key == nil {
		cfg.Key = identity.GenerateSecretKey()
	}
	n.id = cfg.Key.NodeID()
	if cfg.Deliver == nil {
		cfg.Deliver = n.deliver
	}
	n.Actor = New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return n
}

func (n *node) deliver(url identity.RelayURL, src identity.NodeID, payload []byte) {
	for len(payload) > 0 {
		d, rest, err := relay.NextDatagram(payload)
		if err != nil {
			return
		}
		n.got <- packet{url, src, string(d)}
		payload = rest
	}
}

func (n *node) expect(want packet) {
	n.t.Helper()
	select {
	case got := <-n.got:
		if got != want {
			n.t.Fatalf("got %+v, want %+v", got, want)
		}
	case <-time.After(patience):
		n.t.Fatalf("%q does not arrive", want.data)
	}
}

func (n *node) expectNothing() {
	n.t.Helper()
	select {
	case got := <-n.got:
		n.t.Fatalf("got %+v", got)
	default:
	}
}

// statusOf returns the status of one link; ok is false when it is gone.
func (n *node) statusOf(url identity.RelayURL) (Status, bool) {
	for _, s := range n.Status() {
		if s.URL == url {
			return s, true
		}
	}
	return Status{}, false
}

// waitState waits until a link is in that state and, when it is connected,
// until the relay has shown that it took the login.
func (n *node) waitState(url identity.RelayURL, want State) Status {
	n.t.Helper()
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		s, ok := n.statusOf(url)
		if ok && s.State == want && (want != StateConnected || s.RTT > 0) {
			return s
		}
		if time.Since(begin) > patience {
			n.t.Fatalf("%v is %+v, not %s", url, s, want)
		}
	}
}

// network is an internet in memory, for tests with a clock of their own: relays
// at names, reached by pipes.
type network struct {
	t testing.TB

	mu     sync.Mutex                   // guards the fields below
	relays map[string]*relaytest.Memory // by host:port
	dialed []time.Time
	conns  []net.Conn // of all that dialled
	hangs  string     // dials to it last until they are given up
}

func newNetwork(t testing.TB) *network {
	return &network{t: t, relays: make(map[string]*relaytest.Memory)}
}

func (n *network) addRelay(address string, access relayserver.Access) {
	r := relaytest.StartMemory(n.t, relayserver.Config{Access: access})
	n.mu.Lock()
	defer n.mu.Unlock()
	n.relays[address] = r
}

var errRefused = errors.New("connection refused")

// dial is for Config.Dial.
func (n *network) dial(ctx context.Context, _, address string) (net.Conn, error) {
	n.mu.Lock()
	n.dialed = append(n.dialed, time.Now())
	r, hangs := n.relays[address], n.hangs == address
	n.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if r == nil {
		return nil, errRefused
	}
	ours, err := r.Dial(ctx)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conns = append(n.conns, ours)
	return ours, nil
}

// cutAll breaks all connections.
func (n *network) cutAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.conns {
		_ = c.Close()
	}
	n.conns = nil
}

// hang leaves all later dials to an address without an answer.
func (n *network) hang(address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hangs = address
}

// dials returns when somebody dialled.
func (n *network) dials() []time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.dialed)
}

// rename moves a relay.
func (n *network) rename(from, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.relays[to] = n.relays[from]
}

// bubble runs f with a clock of its own.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}
