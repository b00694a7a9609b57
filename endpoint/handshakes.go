package endpoint

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/ratelimit"
)

// Limits of what others begin (S6), for everybody: an address that a peer has here may be
// forged by others.
const (
	maxPending     = 64 // in all
	maxPendingNode = 4
	// Above these a Retry proves first that the dialler is where it says (RFC 9000 8.1.2).
	// Nothing is kept for one that does not answer it.
	retryPending     = 16
	retryPendingNode = 2
	// A node begins so many a second once it had the burst: more have to be proven, and
	// of those that are there are as many again. Who forges a node's address uses up what
	// is not proven alone.
	handshakeRate  = 1
	handshakeBurst = 8
	// deniedGap is how often a denied node is told so.
	deniedGap = time.Minute
	// firstHandshakeSweep is the number of nodes above which those that are quiet are
	// forgotten.
	firstHandshakeSweep = 256
)

var (
	errTooManyHandshakes = errors.New("too many handshakes")
	errToldDenied        = errors.New("denied, and told so")
)

// handshakes counts the connections that others began and that are not welcome yet. The
// zero value is ready for use.
type handshakes struct {
	// paced bounds how often a node may begin, too: where every node needs few connections.
	paced bool

	mu    sync.Mutex // guards the fields below
	all   int
	nodes map[identity.NodeID]*begun
	sweep int
}

// begun is what a node did; the zero NodeID stands for those that are not known.
type begun struct {
	pending int
	last    time.Time
	// unproven and proven are the pace of connections whose dialler did not prove where it
	// is, and did.
	unproven, proven ratelimit.Bucket
	told             time.Time // that it is denied
}

func (h *handshakes) node(id identity.NodeID, now time.Time) *begun {
	if h.nodes == nil {
		h.nodes, h.sweep = make(map[identity.NodeID]*begun), firstHandshakeSweep
	}
	b := h.nodes[id]
	if b == nil {
		if len(h.nodes) >= h.sweep {
			for id, b := range h.nodes {
				if b.pending == 0 && now.Sub(b.last) > deniedGap {
					delete(h.nodes, id)
				}
			}
			h.sweep = max(firstHandshakeSweep, 2*len(h.nodes))
		}
		b = new(begun)
		h.nodes[id] = b
	}
	b.last = now
	return b
}

// begin counts a connection that a node begins; end, which may be called again, ends that.
func (h *handshakes) begin(id identity.NodeID, denied, proven bool, now time.Time) (end func(), err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.node(id, now)
	switch {
	case h.all >= maxPending, !id.IsZero() && b.pending >= maxPendingNode:
		return nil, errTooManyHandshakes
	case denied && !b.told.IsZero() && now.Sub(b.told) < deniedGap:
		return nil, errToldDenied
	case h.paced && !id.IsZero() && proven && !b.proven.Take(now, handshakeRate, handshakeBurst):
		return nil, errTooManyHandshakes
	}
	if denied {
		b.told = now
	}
	h.all++
	b.pending++
	return sync.OnceFunc(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.all--
		b.pending--
	}), nil
}

// doubted reports whether the one that begins now has to prove where it is.
func (h *handshakes) doubted(id identity.NodeID, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.all >= retryPending || id.IsZero() {
		return h.all >= retryPending
	}
	b := h.node(id, now)
	return b.pending >= retryPendingNode || h.paced && !b.unproven.Take(now, handshakeRate, handshakeBurst)
}

// pendingKey finds the end of a pending handshake in its context.
type pendingKey struct{}

// handshakeBegins is called by the transport for each connection that somebody
// dials; an error refuses it. The context ends with the connection.
func (e *Endpoint) handshakeBegins(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	id, _ := e.socket.NodeOf(info.RemoteAddr)
	denied := e.cfg.Socket.Denied != nil && e.cfg.Socket.Denied(id)
	end, err := e.pending.begin(id, denied, info.AddrVerified, time.Now())
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, end)
	return context.WithValue(ctx, pendingKey{}, end), nil
}

// mustProve is called by the transport for each first packet of a connection.
func (e *Endpoint) mustProve(addr net.Addr) bool {
	id, _ := e.socket.NodeOf(addr)
	return e.pending.doubted(id, time.Now())
}

// Welcome says that the node that dialled is taken: see Config.Welcomes.
func (c *Connection) Welcome() { welcome(c.quic.Context()) }

// welcome ends the count of the connection with this context as a pending one.
func welcome(ctx context.Context) {
	if end, ok := ctx.Value(pendingKey{}).(func()); ok {
		end()
	}
}
