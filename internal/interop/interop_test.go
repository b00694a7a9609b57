//go:build linux

package interop

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodetun/nodetun/discovery"
	"github.com/nodetun/nodetun/endpoint"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock"
	"github.com/nodetun/nodetun/relay/relayserver"
	"github.com/nodetun/nodetun/relay/relayserver/relaytest"
)

const alpn = "nodetun/interop/1"

// Who takes part, as the table names them.
const (
	iroh028 = "iroh-net 0.28.1"
	iroh1   = "iroh 1.1.0"
)

// ours is our endpoint, which echoes what it is sent.
type ours struct {
	*endpoint.Endpoint
	t   *testing.T
	key *identity.SecretKey
}

func startOurs(t *testing.T, relays ...identity.RelayURL) *ours {
	t.Helper()
	return startOursAs(t, identity.GenerateSecretKey(), nil, relays...)
}

// startOursAs starts the node of a key, which finds others by resolver, if that is not nil.
func startOursAs(t *testing.T, key *identity.SecretKey, resolver discovery.Resolver, relays ...identity.RelayURL) *ours {
	t.Helper()
	e, err := endpoint.New(endpoint.Config{
		Resolver: resolver,
		Socket: magicsock.Config{
			Key: key, Relays: relays, NoPortmap: true,
			Bind4:  netip.AddrPortFrom(netip.IPv4Unspecified(), 0),
			Paired: func(identity.NodeID) bool { return true },
		},
		ALPNs: []string{alpn},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := e.Run(ctx); err != nil {
			t.Errorf("our endpoint: %v", err)
		}
	})
	running.Go(func() {
		for {
			c, err := e.Accept(ctx)
			if err != nil {
				return
			}
			running.Go(func() { echoStreams(c) })
			running.Go(func() { echoDatagrams(c) })
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return &ours{e, t, key}
}

func echoStreams(c *endpoint.Connection) {
	for {
		s, err := c.AcceptStream(c.Context())
		if err != nil {
			return
		}
		b, err := io.ReadAll(s)
		if err == nil {
			_, _ = s.Write(b)
		}
		_ = s.Close()
	}
}

func echoDatagrams(c *endpoint.Connection) {
	for {
		b, err := c.ReceiveDatagram(c.Context())
		if err != nil {
			return
		}
		_ = c.SendDatagram(b)
	}
}

// direct is our address without a relay, relayed with nothing else.
func (o *ours) direct() address {
	v4, _ := o.LocalAddrs()
	return address{ID: o.NodeID().Hex(), Direct: []string{netip.AddrPortFrom(netip.MustParseAddr(firstAddr), v4.Port()).String()}}
}

func (o *ours) relayed(r *relaytest.Relay) address {
	return address{ID: o.NodeID().Hex(), Relay: r.URL.String()}
}

// connect dials a real node.
func (o *ours) connect(to address) *endpoint.Connection {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(o.t.Context(), patience)
	defer cancel()
	c, err := o.Connect(ctx, to.nodeAddr(o.t), alpn)
	if err != nil {
		o.t.Fatalf("dial %+v: %v", to, err)
	}
	return c
}

// talk sends much on a stream and a datagram, which come back.
func (o *ours) talk(c *endpoint.Connection) {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(o.t.Context(), patience)
	defer cancel()
	s, err := c.OpenStream(ctx)
	if err != nil {
		o.t.Fatal(err)
	}
	_ = s.SetDeadline(time.Now().Add(patience))
	sent := bytes.Repeat([]byte("0123456789abcde"), 1<<16)
	var back []byte
	var read sync.WaitGroup
	read.Go(func() { back, err = io.ReadAll(s) })
	if _, err := s.Write(sent); err != nil {
		o.t.Fatal(err)
	}
	_ = s.Close()
	read.Wait()
	if err != nil || !bytes.Equal(back, sent) {
		o.t.Fatalf("%d bytes came back of %d: %v", len(back), len(sent), err)
	}
	datagram := bytes.Repeat([]byte{42}, 1000)
	got := make(chan error, 1)
	go func() {
		b, err := c.ReceiveDatagram(ctx)
		if err == nil && !bytes.Equal(b, datagram) {
			err = fmt.Errorf("%d other bytes", len(b))
		}
		got <- err
	}()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		if err := c.SendDatagram(datagram); err != nil {
			o.t.Fatal(err)
		}
		select {
		case err := <-got:
			if err != nil {
				o.t.Fatalf("datagram: %v", err)
			}
			return
		case <-again.C: // it may have got lost
		}
	}
}

// onPath waits until both sides say which path they take: "direct" or "relay".
func onPath(t *testing.T, o *ours, i *iroh, want string) {
	t.Helper()
	id := i.addr.nodeAddr(t).ID
	eventually(t, "path "+want, func() error {
		info, _ := o.Socket().Remote(id)
		theirs := i.must("path", args{"id": o.NodeID().Hex()})
		// Version 0.28 calls it mixed while it has an address to try.
		if info.Conn.String() != want || theirs.Path != want && (want != "relay" || theirs.Path != "mixed") {
			return fmt.Errorf("ours is %v, theirs %s %s", info.Conn, theirs.Path, theirs.Details)
		}
		return nil
	})
}

func TestDirect(t *testing.T) {
	network(t)
	t.Run("theirs dials", func(t *testing.T) {
		o, i := startOurs(t), startIroh(t, "0.28", nil)
		c := i.connect(o.direct())
		i.talk(c)
		onPath(t, o, i, "direct")
		shown(t, iroh028, "→ our endpoint", "direct", "1 MiB on a stream, datagrams, NodeID")
	})
	t.Run("ours dials", func(t *testing.T) {
		o, i := startOurs(t), startIroh(t, "0.28", nil)
		c := o.connect(address{ID: i.addr.ID, Direct: i.addr.Direct})
		if c.RemoteNodeID().String() != i.addr.nodeAddr(t).ID.String() {
			t.Errorf("connected with %v", c.RemoteNodeID())
		}
		o.talk(c)
		onPath(t, o, i, "direct")
		shown(t, "our endpoint", "→ "+iroh028, "direct", "1 MiB on a stream, datagrams, NodeID")
	})
}

func TestThroughRelay(t *testing.T) {
	network(t)
	free := blockUDP(t)
	r := relaytest.Start(t, relayserver.Config{})
	o, i := startOurs(t, r.URL), startIroh(t, "0.28", nil)
	c := i.connect(o.relayed(r))
	i.talk(c)
	onPath(t, o, i, "relay")
	shown(t, iroh028, "→ our endpoint", "our relay, UDP blocked", "1 MiB on a stream, datagrams")

	// It stays connected to our relay, so that it can be dialled there.
	back := o.connect(address{ID: i.addr.ID, Relay: r.URL.String()})
	o.talk(back)
	onPath(t, o, i, "relay")
	shown(t, "our endpoint", "→ "+iroh028, "our relay, UDP blocked", "1 MiB on a stream, datagrams")

	free()
	eventually(t, "upgrade", func() error {
		i.talk(c) // paths are looked for while something is sent
		info, _ := o.Socket().Remote(i.addr.nodeAddr(t).ID)
		theirs := i.must("path", args{"id": o.NodeID().Hex()})
		if info.Conn.String() != "direct" || theirs.Path != "direct" {
			return fmt.Errorf("ours is %v, theirs %s %s", info.Conn, theirs.Path, theirs.Details)
		}
		return nil
	})
	i.talk(c)
	o.talk(back)
	shown(t, iroh028, "↔ our endpoint", "relay, then direct", "both connections go on, UDP no longer blocked")
}

func TestWrongNodeID(t *testing.T) {
	network(t)
	o, i := startOurs(t), startIroh(t, "0.28", nil)
	other := identity.GenerateSecretKey().NodeID().Hex()
	wrong := o.direct()
	wrong.ID = other
	if a, err := i.doWithin(3*time.Second, "connect", wrong.args()); err == nil {
		t.Errorf("a real node took ours for another: %+v", a)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	at := address{ID: other, Direct: i.addr.Direct}
	if _, err := o.Connect(ctx, at.nodeAddr(t), alpn); err == nil {
		t.Error("our endpoint took a real node for another")
	}
	// Both still serve those who know them.
	i.talk(i.connect(o.direct()))
	shown(t, iroh028, "↔ our endpoint", "direct", "another NodeID at that address is refused, by either side")
}

// Our host loses the address that both use; the connection goes on by its other one.
func TestRoaming(t *testing.T) {
	network(t)
	o, i := startOurs(t), startIrohIn(t, "0.28", nil, elsewhere)
	c := i.connect(o.direct())
	i.talk(c)
	onPath(t, o, i, "direct")
	used, _, _ := strings.Cut(i.must("path", args{"id": o.NodeID().Hex()}).Details, ":")
	setAddr(t, used, false)
	t.Cleanup(func() { setAddr(t, used, true) })
	i.talk(c)
	eventually(t, "another direct path", func() error {
		i.talk(c)
		now := i.must("path", args{"id": o.NodeID().Hex()})
		if now.Path != "direct" || strings.HasPrefix(now.Details, used+":") {
			return fmt.Errorf("path %s %s", now.Path, now.Details)
		}
		return nil
	})
	shown(t, iroh028, "↔ our endpoint", "direct, to another address", "the connection goes on when the address in use is removed")
}

// Two real nodes that know no relay but ours.
func TestTwoOfThem(t *testing.T) {
	network(t)
	blockUDP(t)
	r := relaytest.Start(t, relayserver.Config{})
	a, b := startIroh(t, "0.28", nil), startIroh(t, "0.28", nil)
	// A node connects to a relay when it dials someone there, so they dial each
	// other.
	type result struct {
		connection int
		err        error
	}
	dial := func(from, to *iroh) chan result {
		ch := make(chan result, 1)
		go func() {
			got, err := from.do("connect", address{ID: to.addr.ID, Relay: r.URL.String()}.args())
			ch <- result{got.Connection, err}
		}()
		return ch
	}
	fromA, fromB := dial(a, b), dial(b, a)
	for from, ch := range map[*iroh]chan result{a: fromA, b: fromB} {
		got := <-ch
		if got.err != nil {
			t.Fatal(got.err)
		}
		from.talk(got.connection)
	}
	if n := r.Server.Counters(); n.BytesReceived < 4<<20 || n.Iroh1Accepts > 0 {
		t.Errorf("%+v", n)
	}
	shown(t, iroh028, "↔ "+iroh028, "our relay, UDP blocked", "1 MiB on a stream each way, datagrams")
}

func TestTwoOfThemWithIroh1(t *testing.T) {
	network(t)
	for _, test := range []struct {
		name string
		cfg  relayserver.Config
		with args
		what string
	}{
		{"open", relayserver.Config{}, args{}, "home relay, 1 MiB on a stream each way, datagrams"},
		{
			"token",
			relayserver.Config{Access: relayserver.Access{Mode: relayserver.AccessToken, Tokens: []string{"sesame"}}},
			args{"token": "sesame"},
			"a relay that wants a token",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			blockUDP(t)
			r := relaytest.Start(t, test.cfg)
			test.with["relay"] = r.URL.String()
			a, b := startIroh(t, "1", test.with), startIroh(t, "1", test.with)
			for _, n := range []*iroh{a, b} {
				if got := n.must("online", nil); got.Relay == "" {
					t.Fatalf("no home relay: %+v", got)
				}
			}
			for _, pair := range [][2]*iroh{{a, b}, {b, a}} {
				c := pair[0].connect(address{ID: pair[1].addr.ID, Relay: r.URL.String()})
				pair[0].talk(c)
				if p := pair[0].must("path", args{"connection": c}); p.Path != "relay" {
					t.Errorf("path %s %s", p.Path, p.Details)
				}
			}
			if n := r.Server.Counters(); n.Iroh1Accepts < 2 || n.BytesReceived < 4<<20 || n.LoginFailures > 0 {
				t.Errorf("%+v", n)
			}
			shown(t, iroh1, "↔ "+iroh1, "our relay, UDP blocked", test.what)
		})
	}
}

// A relay that restarts gets its nodes of iroh 1.x back, and their connections go on.
func TestIroh1SurvivesRestart(t *testing.T) {
	network(t)
	blockUDP(t)
	r := relaytest.Start(t, relayserver.Config{})
	with := args{"relay": r.URL.String()}
	a, b := startIroh(t, "1", with), startIroh(t, "1", with)
	a.must("online", nil)
	b.must("online", nil)
	c := a.connect(address{ID: b.addr.ID, Relay: r.URL.String()})
	a.talk(c)
	at := r.Server.Addr().String()
	r.Stop()
	relaytest.Start(t, relayserver.Config{Addr: at})
	a.talk(c)
	shown(t, iroh1, "↔ "+iroh1, "our relay, restarted", "the connection goes on")
}
