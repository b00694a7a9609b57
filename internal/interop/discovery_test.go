//go:build linux

package interop

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net"
	"testing"
	"time"

	"github.com/nodetun/nodetun/discovery/discoveryserver"
	"github.com/nodetun/nodetun/discovery/dns"
	"github.com/nodetun/nodetun/discovery/mdns"
	"github.com/nodetun/nodetun/discovery/pkarr"
	"github.com/nodetun/nodetun/identity"
)

// startDiscovery runs a discovery server that answers for the zone where nodes of iroh-net
// look, at the address of /etc/resolv.conf.
func startDiscovery(t *testing.T) pkarr.Client {
	t.Helper()
	s := discoveryserver.New(discoveryserver.Config{
		Addr: firstAddr + ":0", DNSAddr: net.JoinHostPort(firstAddr, "53"), Origins: []string{dns.DefaultOrigin},
	})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return pkarr.Client{URL: s.URL() + "/pkarr"}
}

// publish has the server know where the node of a key is.
func publish(t *testing.T, server pkarr.Client, key *identity.SecretKey, addr identity.NodeAddr) {
	t.Helper()
	packet, err := pkarr.NewSigner(key, 0, nil).Sign(time.Now(), addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Put(t.Context(), packet); err != nil {
		t.Fatal(err)
	}
}

// A real node dials ours by its NodeID alone: it reads the record that we published.
func TestFoundByDNS(t *testing.T) {
	network(t)
	server := startDiscovery(t)
	o, i := startOurs(t), startIrohIn(t, "0.28", args{"discovery": true}, elsewhere)
	publish(t, server, o.key, o.direct().nodeAddr(t))
	i.talk(i.connect(address{ID: o.NodeID().Hex()}))
	onPath(t, o, i, "direct")
	shown(t, iroh028, "→ our endpoint", "direct", "dialled by its NodeID alone: our record, from our discovery server by DNS")
}

// Nodes of iroh 1.x read such records too.
func TestFoundByDNSWithIroh1(t *testing.T) {
	network(t)
	server := startDiscovery(t)
	seed := []byte(rand.Text() + rand.Text())[:32]
	key, err := identity.SecretKeyFromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	a := startIroh(t, "1", args{"secret": hex.EncodeToString(seed)})
	b := startIrohIn(t, "1", args{"discovery": true}, elsewhere)
	publish(t, server, key, a.addr.nodeAddr(t))
	b.talk(b.connect(address{ID: a.addr.ID}))
	shown(t, iroh1, "→ "+iroh1, "direct", "dialled by its NodeID alone: a record as we sign it, from our discovery server by DNS")
}

// startOnLink starts our node with nothing but mDNS to find others and to be found.
func startOnLink(t *testing.T) *ours {
	t.Helper()
	key := identity.GenerateSecretKey()
	local, err := mdns.New(mdns.Config{ID: key.NodeID()})
	if err != nil {
		t.Fatal(err)
	}
	o := startOursAs(t, key, local)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- local.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	local.Publish(o.direct().nodeAddr(t))
	return o
}

// Nodes that have nothing but a link between them dial each other by NodeID alone.
func TestFoundOnLink(t *testing.T) {
	t.Run("ours dials", func(t *testing.T) {
		network(t)
		i := startIrohIn(t, "0.28", args{"discovery": true}, elsewhere)
		o := startOnLink(t)
		o.talk(o.connect(address{ID: i.addr.ID}))
		onPath(t, o, i, "direct")
		shown(t, "our endpoint", "→ "+iroh028, "direct", "dialled by its NodeID alone: what it says on the link, by mDNS")
	})
	t.Run("theirs dials", func(t *testing.T) {
		network(t)
		o := startOnLink(t)
		i := startIrohIn(t, "0.28", args{"discovery": true}, elsewhere)
		var c int
		// The DNS fails at once, after which a real node waits for no other source: it
		// finds on the link what it has heard of already.
		eventually(t, "found", func() error {
			a, err := i.do("connect", address{ID: o.NodeID().Hex()}.args())
			c = a.Connection
			return err
		})
		i.talk(c)
		onPath(t, o, i, "direct")
		shown(t, iroh028, "→ our endpoint", "direct", "dialled by its NodeID alone: what ours says on the link, by mDNS")
	})
}
