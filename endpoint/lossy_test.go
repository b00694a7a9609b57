package endpoint

import (
	"io"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

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
		n := startNatted(t)
		if coded {
			a, b := n.dialler, n.acceptor
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
		n.lab.Lose(func() bool { return r.Float64() < loss })
		out, err := n.dialled.OpenUniStream(t.Context())
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
		in, err := n.accepted.AcceptUniStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if size, err := io.Copy(io.Discard, in); err != nil || size != 16<<20 {
			t.Fatal(size, err)
		}
		took = time.Since(begin)
		if n.lab.Lost() == 0 {
			t.Error("nothing was lost")
		}
		n.lab.Lose(nil)
	})
	return took
}
