package engine

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/nodetun/nodetun/endpoint"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/natlab"
)

// Two nodes that both may repair what their path loses; with one that may not nothing changes.
// Then one of them is started anew, which the other learns though what it sends is coded by keys
// that nobody has any more.
func TestSessionsAreCoded(t *testing.T) {
	for _, off := range []bool{false, true} {
		lab := natlab.New(t)
		router := lab.Internet.NAT(natlab.Config{Mapping: natlab.EndpointIndependent, Filtering: natlab.EndpointIndependent, Timeout: time.Hour})
		key := identity.GenerateSecretKey()
		salt := bytes.Repeat([]byte{7}, 32)
		start := func(h *natlab.Host, pool string, key *identity.SecretKey, off bool) *node {
			return startNodeWith(t, key, salt, netip.MustParsePrefix(pool), func(e *endpoint.Config, c *Config) {
				e.Socket.Underlay, e.Socket.Bind4, e.Socket.Bind6 = h.Underlay(), netip.AddrPort{}, netip.AddrPort{}
				c.NoFEC = off
			})
		}
		outside := lab.Internet.Host()
		a, b := start(router.Inside.Host(), "100.100.0.0/16", nil, off), start(outside, "198.18.0.0/16", key, false)
		v4, _ := b.end.LocalAddrs()
		b.knowAt(t, a.id, identity.NodeAddr{}, "all")
		a.knowAt(t, b.id, identity.NodeAddr{ID: b.id, Direct: []netip.AddrPort{netip.AddrPortFrom(outside.Addr(), v4.Port())}}, "all")
		r := rand.New(rand.NewPCG(1, 2))
		lab.Lose(func() bool { return r.Float64() < 0.02 })
		flow, err := a.dial(t, b, echoPort, false)
		if err != nil {
			t.Fatal(err)
		}
		echo(t, flow, bytes.Repeat([]byte("x"), 1<<20))
		info, ok := b.end.Socket().Coding(a.id)
		if ok == off || off && b.end.Socket().Metrics().RecvCoded > 0 {
			t.Errorf("one may not: %v; coded %v, %+v", off, ok, info)
		}
		if !off && (info.Received.Data == 0 || info.Received.Repaired == 0 || info.SentParity == 0) {
			t.Errorf("nothing was repaired: %+v", info)
		}
		flow.Close()
		if off {
			continue
		}
		before := a.engine.peer(b.id).current.Load()
		router.Block(true) // it goes without a word
		b.stop()
		router.Block(false)
		lab.Lose(nil)
		b = start(outside, "198.18.0.0/16", key, false)
		b.knowAt(t, a.id, identity.NodeAddr{}, "all")
		flow, err = a.dial(t, b, echoPort, false)
		if err != nil {
			t.Fatal(err)
		}
		echo(t, flow, []byte("again"))
		flow.Close()
		if a.engine.peer(b.id).current.Load() == before {
			t.Error("it is still the old session")
		}
	}
}
