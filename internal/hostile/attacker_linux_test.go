package hostile

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/nodetun/nodetun/endpoint"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/hosttest"
	"github.com/nodetun/nodetun/internal/wire"
	"github.com/nodetun/nodetun/magicsock"
)

// attacker is a machine with a node on it that this test drives.
type attacker struct {
	host   *hosttest.Host
	key    *identity.SecretKey
	node   *endpoint.Endpoint
	victim *hosttest.Host
	target identity.NodeAddr
}

func newAttacker(t *testing.T) *attacker {
	return &attacker{host: hosttest.New(t, "eve"), key: identity.GenerateSecretKey()}
}

// join connects the machine, and runs the node until the test ends.
func (a *attacker) join(t *testing.T, network *hosttest.Internet) {
	t.Helper()
	network.Join(t, a.host)
	a.host.NS.Do(t, func() {
		var err error
		if a.node, err = endpoint.New(endpoint.Config{
			Socket:       magicsock.Config{Key: a.key, NoPortmap: true, Bind4: netip.MustParseAddrPort("0.0.0.0:0")},
			SessionALPNs: []string{wire.ALPN},
		}); err != nil {
			t.Fatal(err)
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.node.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
}

// attacks says who is attacked, and where.
func (a *attacker) attacks(t *testing.T, victim *hosttest.Host, addr string) {
	t.Helper()
	id, err := identity.ParseNodeID(victim.ID(t))
	if err != nil {
		t.Fatal(err)
	}
	a.victim = victim
	a.target = identity.NodeAddr{ID: id, Direct: []netip.AddrPort{netip.MustParseAddrPort(addr + ":" + peerPort)}}
}

// peer is the node as an attack wants it.
func (a *attacker) peer(n uint64) *Peer {
	return &Peer{Endpoint: a.node, Target: a.target, Rand: rand.New(rand.NewPCG(*seed, n))}
}

// address is the attacker's in the tunnel.
func (a *attacker) address(t *testing.T) netip.Addr {
	t.Helper()
	for _, p := range a.victim.Status(t).Peers {
		if p.ID == a.key.NodeID().String() {
			return netip.MustParseAddr(p.IPv6)
		}
	}
	t.Fatal("the victim does not know the attacker")
	return netip.Addr{}
}
