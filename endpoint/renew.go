package endpoint

import (
	"context"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/nodetun/nodetun/identity"
)

// renewTimeout bounds the wait for the answer on the path that is to be measured
// anew.
const renewTimeout = 10 * time.Second

// renew has the connections that this side dialled to a node measure their path
// anew: the first answer after an outage tells of a round trip as long as the outage,
// and for minutes QUIC would send as slowly as that. quic-go starts from nothing when
// it moves to another path, even if that is the same socket and the same address. It
// does so by itself on the side that was dialled when magicsock gives the node another
// address.
func (e *Endpoint) renew(id identity.NodeID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stopping {
		return
	}
	for _, c := range e.conns {
		if c.remote == id && c.dialler && c.renewing.CompareAndSwap(false, true) {
			e.renewals.Go(func() { c.renew(e.transport, e.marked) })
		}
	}
}

// renew moves the connection to another path, which goes the same way: the marked one
// if it is not there yet. quic-go as server leaves a PATH_CHALLENGE on the path in use
// unanswered; others do not, and know no marked path. When it fails, the old path goes
// on.
func (c *Connection) renew(plain, other *quic.Transport) {
	defer c.renewing.Store(false)
	t, marked := plain, c.session && !c.marked
	if marked {
		t = other
	}
	ctx, cancel := context.WithTimeout(c.quic.Context(), renewTimeout)
	defer cancel()
	path, err := c.quic.AddPath(t)
	if err != nil {
		return // the other side forbids it
	}
	if path.Probe(ctx) != nil || path.Switch() != nil {
		_ = path.Close()
		return
	}
	if c.path != nil {
		_ = c.path.Close()
	}
	c.path, c.marked = path, marked
}
