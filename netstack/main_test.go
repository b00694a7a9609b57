package netstack

import (
	"context"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/vnet"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Ends of the tests, per family.
var families = []struct {
	name     string
	src, dst netip.AddrPort
}{
	{"IPv4", netip.MustParseAddrPort("100.100.7.1:40000"), netip.MustParseAddrPort("100.100.9.2:22")},
	{"IPv6", netip.MustParseAddrPort("[fd6e:6f64:6574:1::1]:40000"), netip.MustParseAddrPort("[fd6e:6f64:6574:2::2]:22")},
}

// pair is two stacks joined back to back: what one sends, the other gets. It
// passes packets on in the sender's goroutine.
type pair struct {
	a, b *Stack
	// cut stops packets from a to b.
	cut atomic.Bool
}

// join makes a pair whose b answers SYNs with accept; both are closed, and the
// headers of all packets checked, when the test ends.
func join(t testing.TB, accept func(*Pending)) *pair {
	t.Helper()
	p := &pair{}
	send := func(to **Stack, cut *atomic.Bool) func(h vnet.Header, parts ...[]byte) error {
		return func(h vnet.Header, parts ...[]byte) error {
			ip := slices.Concat(parts...)
			if err := h.Check(ip); err != nil {
				t.Errorf("bad packet: %v", err)
			}
			if !cut.Load() {
				(*to).Inject(h, ip)
			}
			return nil
		}
	}
	var never atomic.Bool
	var err error
	if p.a, err = New(Config{Write: send(&p.b, &p.cut)}); err != nil {
		t.Fatal(err)
	}
	if p.b, err = New(Config{Write: send(&p.a, &never), Accept: accept}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.a.Close()
		p.b.Close()
	})
	return p
}

// within gives a context for what must not take long.
func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// receive waits for a value, at most a minute.
func receive[T any](t testing.TB, ch <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(time.Minute):
		t.Fatal("nothing came")
	}
	return v
}

// connect dials and accepts one flow.
func connect(t testing.TB, src, dst netip.AddrPort) (p *pair, near, far *Flow) {
	t.Helper()
	accepted := make(chan *Flow, 1)
	p = join(t, func(req *Pending) {
		f, err := req.Accept()
		if err != nil {
			t.Errorf("accept: %v", err)
		}
		accepted <- f
	})
	near, err := p.a.Dial(within(t, time.Minute), src, dst)
	if err != nil {
		t.Fatal(err)
	}
	far = receive(t, accepted)
	t.Cleanup(near.Close)
	t.Cleanup(far.Close)
	return p, near, far
}
