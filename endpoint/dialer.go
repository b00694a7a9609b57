package endpoint

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nodetun/nodetun/identity"
)

// Dials of one node that fail follow each other so far apart: the pause doubles with each.
const (
	FirstPause = 250 * time.Millisecond
	MaxPause   = 4 * time.Second
)

// maxRemembered bounds the nodes whose failures are remembered.
const maxRemembered = 4096

// ErrCanceled is returned for a dial that Cancel ended.
var ErrCanceled = errors.New("the dial was cancelled")

// Dialer dials many nodes at a time, each of them once: who wants a node that is being
// dialled waits for the same connection. A node that cannot be reached is dialled again
// after a pause that grows. Its methods may be called from any goroutine.
type Dialer struct {
	connect func(ctx context.Context, addr identity.NodeAddr, alpn string) (*Connection, error)

	mu      sync.Mutex // guards the fields below
	pending map[target]*dial
	failed  map[identity.NodeID]failures
}

// target is what a dial is for.
type target struct {
	id   identity.NodeID
	alpn string
}

// dial is one that runs.
type dial struct {
	cancel  context.CancelCauseFunc
	done    chan struct{} // closed when the two below are set
	conn    *Connection
	err     error
	waiters int // guarded by Dialer.mu
}

// failures are those of a node in a row.
type failures struct {
	count int
	began time.Time // of the last dial
}

// NewDialer makes a dialer of an endpoint.
func NewDialer(e *Endpoint) *Dialer { return newDialer(e.Connect) }

func newDialer(connect func(context.Context, identity.NodeAddr, string) (*Connection, error)) *Dialer {
	return &Dialer{connect: connect, pending: make(map[target]*dial), failed: make(map[identity.NodeID]failures)}
}

// Dial returns a connection with a node, as [Endpoint.Connect] does, or joins the dial that
// runs: all who wait get the same connection, found by the address of the first. It ends with
// ctx; the dial itself goes on while anybody waits.
func (d *Dialer) Dial(ctx context.Context, addr identity.NodeAddr, alpn string) (*Connection, error) {
	at := target{addr.ID, alpn}
	d.mu.Lock()
	one := d.pending[at]
	if one == nil {
		one = d.beginLocked(ctx, addr, alpn)
	}
	one.waiters++
	d.mu.Unlock()
	select {
	case <-one.done:
		return one.conn, one.err
	case <-ctx.Done():
	}
	d.mu.Lock()
	one.waiters--
	last := one.waiters == 0
	if last && d.pending[at] == one {
		delete(d.pending, at) // who comes now begins anew
	}
	d.mu.Unlock()
	if last {
		one.cancel(context.Canceled)
		<-one.done
		if one.conn != nil { // it came up at the same moment
			one.conn.Close(0, "")
		}
	}
	return nil, ctx.Err()
}

// beginLocked starts a dial, which is over soon after nobody waits for it any more.
func (d *Dialer) beginLocked(ctx context.Context, addr identity.NodeAddr, alpn string) *dial {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	one := &dial{cancel: cancel, done: make(chan struct{})}
	at := target{addr.ID, alpn}
	d.pending[at] = one
	pause := d.pauseLocked(addr.ID, time.Now())
	go func() {
		defer close(one.done)
		defer cancel(nil)
		if pause > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
		}
		began := time.Now()
		if one.err = context.Cause(ctx); one.err == nil {
			one.conn, one.err = d.connect(ctx, addr, alpn)
			if one.err != nil && errors.Is(context.Cause(ctx), ErrCanceled) {
				one.err = ErrCanceled
			}
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.pending[at] == one {
			delete(d.pending, at)
		}
		if one.err == nil {
			delete(d.failed, addr.ID)
		} else if ctx.Err() == nil {
			d.failLocked(addr.ID, began)
		}
	}()
	return one
}

// Failed counts a connection that came up and was of no use for a failure, such as one that
// the other side refused at once.
func (d *Dialer) Failed(id identity.NodeID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failLocked(id, time.Now())
}

func (d *Dialer) failLocked(id identity.NodeID, began time.Time) {
	f, known := d.failed[id]
	if !known && len(d.failed) >= maxRemembered {
		for some := range d.failed { // any of them: it is dialled a little sooner
			delete(d.failed, some)
			break
		}
	}
	d.failed[id] = failures{f.count + 1, began}
}

// Pause returns how long a dial of the node that began now would wait.
func (d *Dialer) Pause(id identity.NodeID) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.pauseLocked(id, time.Now())
}

func (d *Dialer) pauseLocked(id identity.NodeID, now time.Time) time.Duration {
	f, known := d.failed[id]
	if !known {
		return 0
	}
	pause := MaxPause
	if shift := f.count - 1; shift < 8 {
		pause = min(FirstPause<<shift, MaxPause)
	}
	return max(0, f.began.Add(pause).Sub(now))
}

// Cancel ends the dials of a node; who waits gets ErrCanceled.
func (d *Dialer) Cancel(id identity.NodeID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for at, one := range d.pending {
		if at.id == id {
			delete(d.pending, at)
			one.cancel(ErrCanceled)
		}
	}
}

// Pending reports whether the node is being dialled.
func (d *Dialer) Pending(id identity.NodeID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for at := range d.pending {
		if at.id == id {
			return true
		}
	}
	return false
}
