package endpoint

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodetun/nodetun/identity"
)

// fakeDials stands for an endpoint: dials last a second and end with err.
type fakeDials struct {
	count, running atomic.Int64
	most           atomic.Int64
	err            error
}

func (f *fakeDials) connect(ctx context.Context, _ identity.NodeAddr, _ string) (*Connection, error) {
	f.count.Add(1)
	f.most.Store(max(f.most.Load(), f.running.Add(1)))
	defer f.running.Add(-1)
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(time.Second):
		return nil, f.err
	}
}

func someNode() identity.NodeAddr {
	return identity.NodeAddr{ID: identity.GenerateSecretKey().NodeID()}
}

// Many nodes are dialled at a time, each once however many want it.
func TestDialerJoins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeDials{err: ErrNoAnswer}
		d := newDialer(f.connect)
		began := time.Now()
		var tasks sync.WaitGroup
		for range 100 {
			addr := someNode()
			for range 10 {
				tasks.Go(func() {
					if _, err := d.Dial(context.Background(), addr, testALPN); !errors.Is(err, ErrNoAnswer) {
						t.Error(err)
					}
				})
			}
		}
		tasks.Wait()
		if f.count.Load() != 100 || f.most.Load() != 100 || time.Since(began) != time.Second {
			t.Errorf("%d dials, %d at a time, in %v", f.count.Load(), f.most.Load(), time.Since(began))
		}
	})
}

// The pause grows with each failure, and ends with one that works.
func TestDialerPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeDials{err: ErrNoAnswer}
		d := newDialer(f.connect)
		addr, other := someNode(), someNode()
		var waits []time.Duration
		for range 8 {
			waits = append(waits, d.Pause(addr.ID))
			_, _ = d.Dial(context.Background(), addr, testALPN)
		}
		// A dial lasts a second, which counts for the pause after it.
		for i, want := range []time.Duration{0, 0, 0, 0, time.Second, 3 * time.Second, 3 * time.Second, 3 * time.Second} {
			if waits[i] != want {
				t.Fatalf("pauses %v", waits)
			}
		}
		if d.Pause(other.ID) != 0 {
			t.Error("another node waits too")
		}
		f.err = nil
		if _, err := d.Dial(context.Background(), addr, testALPN); err != nil || d.Pause(addr.ID) != 0 {
			t.Errorf("%v, then a pause of %v", err, d.Pause(addr.ID))
		}
		d.Failed(addr.ID)
		if d.Pause(addr.ID) != FirstPause {
			t.Errorf("%v after one that was of no use", d.Pause(addr.ID))
		}
		for range 2 * maxRemembered {
			d.Failed(someNode().ID)
		}
		if len(d.failed) > maxRemembered {
			t.Errorf("%d are remembered", len(d.failed))
		}
	})
}

// A dial ends when nobody waits any more, or when it is cancelled.
func TestDialerCancels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeDials{err: ErrNoAnswer}
		d := newDialer(f.connect)
		addr := someNode()
		short, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		var tasks sync.WaitGroup
		tasks.Go(func() {
			if _, err := d.Dial(context.Background(), addr, testALPN); !errors.Is(err, ErrNoAnswer) {
				t.Errorf("who goes on waiting: %v", err)
			}
		})
		if _, err := d.Dial(short, addr, testALPN); !errors.Is(err, context.DeadlineExceeded) || !d.Pending(addr.ID) {
			t.Errorf("%v, pending %v", err, d.Pending(addr.ID))
		}
		tasks.Wait()

		alone, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		other := someNode()
		if _, err := d.Dial(alone, other, testALPN); !errors.Is(err, context.DeadlineExceeded) || d.Pending(other.ID) || f.running.Load() != 0 {
			t.Errorf("%v, pending %v, %d running", err, d.Pending(other.ID), f.running.Load())
		}
		if d.Pause(other.ID) != 0 {
			t.Error("who gave up has to wait")
		}

		began := time.Now()
		time.AfterFunc(100*time.Millisecond, func() { d.Cancel(other.ID) })
		if _, err := d.Dial(context.Background(), other, testALPN); !errors.Is(err, ErrCanceled) || time.Since(began) != 100*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		// So does one that waits for its turn.
		d.Failed(other.ID)
		time.AfterFunc(100*time.Millisecond, func() { d.Cancel(other.ID) })
		if _, err := d.Dial(context.Background(), other, testALPN); !errors.Is(err, ErrCanceled) {
			t.Error(err)
		}
	})
}

// All who wait have one connection.
func TestDialerConnects(t *testing.T) {
	a, b := start(t, loopback()), start(t, loopback())
	serveEcho(b)
	d := NewDialer(a.Endpoint)
	ctx := withTimeout(t)
	conns := make([]*Connection, 5)
	var tasks sync.WaitGroup
	for i := range conns {
		tasks.Go(func() {
			c, err := d.Dial(ctx, b.addr(), testALPN)
			if err != nil {
				t.Error(err)
			}
			conns[i] = c
		})
	}
	tasks.Wait()
	if t.Failed() {
		return
	}
	if err := echoOnce(ctx, conns[0], []byte("x")); err != nil {
		t.Error(err)
	}
}
