package engine

import (
	"bytes"
	"context"
	"crypto/rand"
	"math/big"
	"sync"
	"sync/atomic"
	"time"
)

const (
	traceRounds = 5
	traceWait   = 30 * time.Millisecond
	// The packets of a trace have sizes of their own, in bytes of payload, of which
	// one that comes along by chance is unlikely to have each.
	traceMin, traceMax = 200, 1000
	traceToken         = 32
	// A tunnel adds headers (IP and UDP alone are 28 bytes, VXLAN over IPv6 as much as
	// 126) and fills up to 16 bytes.
	traceHeaders = 160
	tracePadding = 16
)

// trace finds out whether packets that this node sends come back to it through its own
// TUN, because the link that they leave by is a tunnel over ours. While it runs it looks
// at each packet of the host: for its bytes, which most tunnels leave as they are, and for
// its size, since an encrypting one leaves nothing else.
type trace struct {
	one    sync.Mutex // one trace at a time
	active atomic.Bool

	mu    sync.Mutex // guards the fields below
	token []byte     // in the packet on its way
	seen  bool       // the token was
	sizes []int      // of the packets of the host since it left
}

// note looks at a packet of the host.
func (t *trace) note(ip []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen = t.seen || bytes.Contains(ip, t.token)
	if len(t.sizes) < 1<<12 {
		t.sizes = append(t.sizes, len(ip))
	}
}

// Inside reports whether packets that send sends come out of this node's TUN. It sends
// several.
func (e *Engine) Inside(ctx context.Context, send func([]byte) error) bool {
	t := &e.trace
	t.one.Lock()
	defer t.one.Unlock()
	t.active.Store(true)
	defer t.active.Store(false)
	var grown []map[int]bool // by how much the packets of each round were longer
	for range traceRounds {
		size, err := rand.Int(rand.Reader, big.NewInt(traceMax-traceMin))
		if err != nil {
			return false
		}
		payload := make([]byte, traceMin+int(size.Int64()))
		_, _ = rand.Read(payload)
		payload[0] = 0xff >> 2 // a kind of packet that nobody takes for one of his own
		t.mu.Lock()
		t.token, t.seen, t.sizes = payload[1:1+traceToken], false, t.sizes[:0]
		t.mu.Unlock()
		if send(payload) != nil {
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(traceWait):
		}
		t.mu.Lock()
		seen, longer := t.seen, make(map[int]bool)
		for _, n := range t.sizes {
			if d := n - len(payload); d > 0 && d <= traceHeaders {
				longer[d] = true
			}
		}
		t.mu.Unlock()
		if seen {
			return true
		}
		grown = append(grown, longer)
	}
	return sameGrowth(grown)
}

// sameGrowth reports whether a packet of each round was longer by the same number of
// bytes, give or take what a cipher fills up.
func sameGrowth(rounds []map[int]bool) bool {
	for least := 1; least <= traceHeaders; least++ {
		inAll := true
		for _, longer := range rounds {
			any := false
			for d := least; d < least+tracePadding; d++ {
				any = any || longer[d]
			}
			inAll = inAll && any
		}
		if inAll {
			return true
		}
	}
	return false
}
