package endpoint

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nodetun/nodetun/discovery"
	"github.com/quic-go/quic-go"

	"github.com/nodetun/nodetun/identity"
)

// Connect dials the node of addr and agrees on the protocol. Addresses in addr
// are added to what is known; with none at all a Resolver must find some. The
// error wraps ErrSelf, ErrNoAddress, ErrNoAnswer, ErrWrongNode, ErrCertificate,
// ErrALPN, ErrRawPublicKeys, ErrClosed or the context's error, or is one that
// Cause explains. Without a deadline in ctx a dial ends after 10 s.
//
// With TLS 1.3 the dialler is done before the other side has checked it: a
// refusal may come as the first error of the connection.
func (e *Endpoint) Connect(ctx context.Context, addr identity.NodeAddr, alpn string) (*Connection, error) {
	c, err := e.connect(ctx, addr, alpn)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return c, nil
}

func (e *Endpoint) connect(ctx context.Context, addr identity.NodeAddr, alpn string) (*Connection, error) {
	switch {
	case addr.ID == e.NodeID():
		return nil, ErrSelf
	case addr.ID.IsZero():
		return nil, fmt.Errorf("%w: the zero id", identity.ErrBadNodeID)
	case alpn == "":
		return nil, errors.New("no protocol given")
	}
	if err := e.awaitReady(ctx); err != nil {
		return nil, err
	}
	stopResolving, err := e.locate(ctx, addr)
	defer stopResolving()
	if err != nil {
		return nil, err
	}
	conf, err := tlsConfig(e.cfg.Socket.Key, []string{alpn}, addr.ID, e.cfg.KeyLog)
	if err != nil {
		return nil, err
	}
	session := slices.Contains(e.cfg.SessionALPNs, alpn)
	conn, err := e.transport.Dial(ctx, e.socket.MappedAddr(addr.ID), conf, e.quicConfig(session))
	if errors.Is(err, quic.ErrTransportClosed) {
		e.transportEnded(err)
	}
	if err != nil {
		return nil, e.dialError(ctx, addr.ID, alpn, err)
	}
	id, err := peerID(conn.ConnectionState().TLS)
	if err != nil { // not reached: the handshake checked the same
		_ = conn.CloseWithError(0, "")
		return nil, err
	}
	return e.adopt(conn, id, true)
}

// locate makes sure that the socket knows an address of the node. With a
// Resolver it goes on looking beside the dial until stop is called, which waits
// for its end.
func (e *Endpoint) locate(ctx context.Context, addr identity.NodeAddr) (stop func(), err error) {
	nothing := func() {}
	var refused error
	if !addr.IsEmpty() {
		refused = e.socket.AddNodeAddr(addr, "app")
	}
	info, ok := e.socket.Remote(addr.ID)
	known := ok && (len(info.Addrs) > 0 || !info.RelayInfo.URL.IsZero())
	switch {
	case e.cfg.Resolver == nil && known:
		return nothing, nil
	case e.cfg.Resolver == nil && refused != nil:
		return nothing, fmt.Errorf("%w: %w", ErrNoAddress, refused)
	case e.cfg.Resolver == nil:
		return nothing, ErrNoAddress
	case !known:
		return e.resolve(ctx, addr.ID)
	case !info.LastHeard.IsZero() && time.Since(info.LastHeard) < recentlyHeard:
		return nothing, nil
	case !addr.IsEmpty():
		return e.resolveBeside(ctx, addr.ID, resolveDelay), nil
	default:
		return e.resolveBeside(ctx, addr.ID, 0), nil
	}
}

// When to ask a Resolver beside a dial, as iroh-net 0.28.1 does.
const (
	recentlyHeard = 10 * time.Second       // heard from: no need to
	resolveDelay  = 500 * time.Millisecond // head start of addresses that the caller gave
)

// resolve asks the Resolver and waits for the first answer. The search goes on
// until stop is called.
func (e *Endpoint) resolve(ctx context.Context, id identity.NodeID) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	first, done := make(chan struct{}), make(chan error, 1)
	found := sync.OnceFunc(func() { close(first) })
	var task sync.WaitGroup
	task.Go(func() { done <- e.ask(ctx, id, found) })
	stop = func() {
		cancel()
		task.Wait()
	}
	select {
	case <-first:
		return stop, nil
	case <-ctx.Done():
		return stop, ctx.Err()
	case err = <-done:
	}
	select {
	case <-first:
		return stop, nil
	default:
		return stop, errors.Join(fmt.Errorf("%w: discovery found nothing", ErrNoAddress), err)
	}
}

// resolveBeside asks the Resolver after a delay, until stop is called.
func (e *Endpoint) resolveBeside(ctx context.Context, id identity.NodeID, delay time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var task sync.WaitGroup
	task.Go(func() {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if err := e.ask(ctx, id, func() {}); err != nil && ctx.Err() == nil {
			e.log.Debug("discovery", "node", id, "err", err)
		}
	})
	return func() {
		cancel()
		task.Wait()
	}
}

// ask passes what the Resolver says about the node to the socket; found is
// called for every answer of use. Answers about other nodes are not (S27).
func (e *Endpoint) ask(ctx context.Context, id identity.NodeID, found func()) error {
	return e.cfg.Resolver.Resolve(ctx, id, func(item discovery.Item) {
		if item.Addr.ID == id && e.socket.AddNodeAddr(item.Addr, item.Source) == nil {
			found()
		}
	})
}

// Limits of lookups.
const (
	maxLookups    = 16
	lookupTimeout = 10 * time.Second
)

// lookups are searches for nodes that stopped answering, at most one for each.
// They run from begin to end.
type lookups struct {
	mu     sync.Mutex // guards the fields below
	ctx    context.Context
	active map[identity.NodeID]struct{}
	tasks  sync.WaitGroup
}

func (l *lookups) begin(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ctx, l.active = ctx, make(map[identity.NodeID]struct{})
}

// end waits until the last one is over.
func (l *lookups) end() {
	l.mu.Lock()
	l.active = nil
	l.mu.Unlock()
	l.tasks.Wait()
}

// run calls f in the background, unless a search for the node runs already or
// there are too many.
func (l *lookups) run(id identity.NodeID, f func(context.Context)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.active[id]; ok || l.active == nil || len(l.active) >= maxLookups {
		return
	}
	l.active[id] = struct{}{}
	l.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(l.ctx, lookupTimeout)
		defer cancel()
		f(ctx)
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.active, id)
	})
}

// rediscover is called by the socket for a node of which no address answers.
func (e *Endpoint) rediscover(id identity.NodeID) {
	e.lookups.run(id, func(ctx context.Context) {
		if err := e.ask(ctx, id, func() {}); err != nil && ctx.Err() == nil {
			e.log.Debug("discovery", "node", id, "err", err)
		}
	})
}
