package engine

import (
	"bytes"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/nodetun/nodetun/internal/packet"
	"github.com/nodetun/nodetun/netstack"
)

// retries has the host's TCP try again at once when a flow goes on after a long
// standstill. While netstack takes nothing more of a flow, the host sends the same
// segment less and less often, up to once in two minutes. An ICMP error that quotes
// it takes one doubling back (RFC 6069), which is meant for just that: the way was
// broken, not full.
type retries struct {
	engine *Engine
	count  atomic.Int32 // flows that stand still

	mu   sync.Mutex // guards last
	last map[tcpEnds][]byte
}

// tcpEnds are those of a TCP connection as packets of the host name them.
type tcpEnds struct{ src, dst netip.AddrPort }

func endsOf(f *netstack.Flow) tcpEnds { return tcpEnds{src: f.RemoteAddr(), dst: f.LocalAddr()} }

const (
	// maxQuoted is the longest segment that is kept. What is sent again is one.
	maxQuoted = 2 << 10
	// doublings is how many Linux makes at most.
	doublings = 16
)

// watch begins to keep the last segment of a flow.
func (r *retries) watch(e tcpEnds) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil {
		r.last = make(map[tcpEnds][]byte)
	}
	if _, ok := r.last[e]; !ok {
		r.last[e] = nil
		r.count.Add(1)
	}
}

// note keeps a segment of the host if it belongs to a flow that stands still: one
// with data, which is the first that was not acknowledged, since no other is sent
// then. An acknowledgement would not do. It costs one load when no flow stands still.
func (r *retries) note(ip []byte, info *packet.Info) {
	if r.count.Load() == 0 || len(ip) > maxQuoted || !hasData(ip, info) {
		return
	}
	e := tcpEnds{netip.AddrPortFrom(info.Src, info.SrcPort), netip.AddrPortFrom(info.Dst, info.DstPort)}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.last[e]; ok {
		r.last[e] = bytes.Clone(ip)
	}
}

// hasData says that a TCP segment is more than its header.
func hasData(ip []byte, info *packet.Info) bool {
	const offsetAt = 12 // of the byte with the header's length (RFC 9293 3.1)
	if info.Proto != protoTCP || len(ip) <= info.L4+offsetAt {
		return false
	}
	return len(ip) > info.L4+4*int(ip[info.L4+offsetAt]>>4)
}

// forget ends what watch began and returns the last segment, nil for none.
func (r *retries) forget(e tcpEnds) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	ip, ok := r.last[e]
	if ok {
		delete(r.last, e)
		r.count.Add(-1)
	}
	return ip
}

// goOn has the host send the last segment of the flow again.
func (r *retries) goOn(e tcpEnds) {
	reply := packet.AppendUnreachable(nil, r.forget(e), packet.NoRoute, e.dst.Addr())
	for range doublings {
		if reply != nil {
			r.engine.toHost(reply)
		}
	}
}
