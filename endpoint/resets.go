package endpoint

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nodetun/nodetun/magicsock"
	"github.com/nodetun/nodetun/magicsock/udpconn"
)

// Stateless resets leave to one node at most so often (S4). Only nodes that are
// admitted and mapped have packets passed to QUIC at all, so nobody else can
// draw one.
const (
	resetsPerSecond = 10
	resetNodes      = 1024 // whose counts are kept
	resetLen        = 42   // the size of quic-go's resets in bytes
)

// resetGuard is the packet socket with the rate of stateless resets limited:
// quic-go itself knows no limit but a queue.
//
// A reset looks like any short packet, on purpose (RFC 9000 10.3). It is told
// apart by what quic-go hands down beside it: packets of connections come with
// a segment size or an ECN field, resets with nothing.
type resetGuard struct {
	*magicsock.PacketConn
	// marks says that packets of connections were seen to have an ECN field beside them, as
	// all have then, on every path.
	marks atomic.Bool
	// plain are the nodes with connections that do not use segmentation offload:
	// without ECN resets to them cannot be told apart, and pass.
	plain plainNodes

	sent, dropped atomic.Uint64
	rate          resetRate
}

// WriteMsgUDP drops a reset that is one too many.
func (g *resetGuard) WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error) {
	if len(oob) > 0 && !g.marks.Load() && udpconn.ParseControl(oob).TOS != 0 { // quic-go begins with ECT(0)
		g.marks.Store(true)
	}
	if len(b) == resetLen && len(oob) == 0 && b[0]&0xc0 == 0x40 && (g.marks.Load() || !g.plain.has(addr.AddrPort().Addr())) {
		if !g.rate.allow(time.Now(), addr.AddrPort().Addr()) {
			g.dropped.Add(1)
			return len(b), 0, nil
		}
		g.sent.Add(1)
	}
	return g.PacketConn.WriteMsgUDP(b, oob, addr)
}

// plainNodes counts connections by the mapped address of their node; the zero value
// is ready for use.
type plainNodes struct {
	mu    sync.Mutex // guards conns
	conns map[netip.Addr]int
}

// add counts n connections more, or less.
func (p *plainNodes) add(node netip.Addr, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns == nil {
		p.conns = make(map[netip.Addr]int)
	}
	if p.conns[node] += n; p.conns[node] == 0 {
		delete(p.conns, node)
	}
}

func (p *plainNodes) has(node netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conns[node] > 0
}

// resetRate counts the resets of the present second by node; the zero value is
// ready for use.
type resetRate struct {
	mu     sync.Mutex // guards the fields below
	second int64
	counts map[netip.Addr]int // by the address of the node, whatever its port
}

func (r *resetRate) allow(now time.Time, to netip.Addr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := now.Unix(); s != r.second || r.counts == nil {
		r.second, r.counts = s, make(map[netip.Addr]int)
	}
	n, known := r.counts[to]
	if n >= resetsPerSecond || !known && len(r.counts) >= resetNodes {
		return false
	}
	r.counts[to] = n + 1
	return true
}
