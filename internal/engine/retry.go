package engine

import (
	"net/netip"

	"github.com/nodetun/nodetun/internal/outage"
	"github.com/nodetun/nodetun/internal/packet"
	"github.com/nodetun/nodetun/netstack"
)

// doublings is how many Linux makes of its timer at most. An ICMP error takes one back.
const doublings = 16

func endsOf(f *netstack.Flow) outage.Ends {
	return outage.Ends{Src: f.RemoteAddr(), Dst: f.LocalAddr()}
}

// endsOfSegment are those of the flow that a segment of the host belongs to.
func endsOfSegment(info *packet.Info) outage.Ends {
	return outage.Ends{
		Src: netip.AddrPortFrom(info.Src, info.SrcPort), Dst: netip.AddrPortFrom(info.Dst, info.DstPort),
	}
}

// noteSegment keeps what the host sends on a flow that stands still. An acknowledgement
// would not do.
func (e *Engine) noteSegment(ip []byte, info *packet.Info) {
	if e.standing.None() || !hasData(ip, info) {
		return
	}
	e.standing.Note(endsOfSegment(info), ip)
}

// hasData says that a TCP segment is more than its header.
func hasData(ip []byte, info *packet.Info) bool {
	const offsetAt = 12 // of the byte with the header's length (RFC 9293 3.1)
	if info.Proto != protoTCP || len(ip) <= info.L4+offsetAt {
		return false
	}
	return len(ip) > info.L4+4*int(ip[info.L4+offsetAt]>>4)
}

// tryAgain has the host send the last segment of a flow that stood still again (RFC 6069).
func (e *Engine) tryAgain(ends outage.Ends) {
	reply := packet.AppendUnreachable(nil, e.standing.Forget(ends), packet.NoRoute, ends.Dst.Addr())
	if reply == nil {
		return
	}
	for range doublings {
		e.toHost(reply)
	}
}
