package endpoint

import (
	"io"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/natlab"
	"github.com/nodetun/nodetun/magicsock"
	"github.com/nodetun/nodetun/magicsock/fec"
	"github.com/nodetun/nodetun/magicsock/nodemap"
)

// On a path that loses packets at random a connection whose packets are coded is many times as
// fast as one that takes each loss for a full queue.
func TestCodedConnectionOnLossyPath(t *testing.T) {
	for _, loss := range []float64{0.01, 0.05} {
		plain, coded := lossyTransfer(t, loss, false), lossyTransfer(t, loss, true)
		t.Logf("%v %% lost: 16 MiB in %v, coded in %v", 100*loss, plain, coded)
		if coded > plain/10 {
			t.Errorf("%v %% lost: 16 MiB take %v, and %v coded", 100*loss, plain, coded)
		}
	}
}

// lossyTransfer returns how long 16 MiB take.
func lossyTransfer(t *testing.T, loss float64, coded bool) (took time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		lab := natlab.New(t)
		router := lab.Internet.NAT(natlab.Config{Mapping: natlab.EndpointIndependent, Filtering: natlab.EndpointIndependent, Timeout: time.Hour})
		onHost := func(h *natlab.Host) *node {
			return start(t, Config{
				Socket: magicsock.Config{
					Key: identity.GenerateSecretKey(), Underlay: h.Underlay(), Paired: func(identity.NodeID) bool { return true },
				},
				ALPNs: []string{testALPN}, SessionALPNs: []string{testALPN},
			})
		}
		outside := lab.Internet.Host()
		a, b := onHost(router.Inside.Host()), onHost(outside)
		v4, _ := b.LocalAddrs()
		ctx := t.Context()
		accepted := make(chan *Connection, 1)
		go func() {
			c, err := b.Accept(ctx)
			if err != nil {
				t.Error(err)
			}
			accepted <- c
		}()
		from, err := a.Connect(ctx, identity.NodeAddr{ID: b.NodeID(), Direct: []netip.AddrPort{netip.AddrPortFrom(outside.Addr(), v4.Port())}}, testALPN)
		if err != nil {
			t.Fatal(err)
		}
		to := <-accepted
		if coded {
			one, other := fec.Key{1}, fec.Key{2}
			ours, theirs := a.Socket().Code(b.NodeID(), one, other), b.Socket().Code(a.NodeID(), other, one)
			a.Socket().SetPeerFeatures(b.NodeID(), nodemap.Features{FEC: true})
			b.Socket().SetPeerFeatures(a.NodeID(), nodemap.Features{FEC: true})
			ours.Start()
			theirs.Start()
			defer ours.Close()
			defer theirs.Close()
		}
		r := rand.New(rand.NewPCG(1, 2))
		lab.Lose(func() bool { return r.Float64() < loss })
		out, err := from.OpenUniStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		go func() {
			if _, err := out.Write(make([]byte, 16<<20)); err != nil {
				t.Error(err)
			}
			_ = out.Close()
		}()
		in, err := to.AcceptUniStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, in); err != nil || n != 16<<20 {
			t.Fatal(n, err)
		}
		took = time.Since(begin)
		if lab.Lost() == 0 {
			t.Error("nothing was lost")
		}
		lab.Lose(nil)
	})
	return took
}
