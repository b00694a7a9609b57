package engine

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/nodetun/nodetun/internal/packet"
)

// IP protocol numbers (IANA).
const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
)

// TCP flags (RFC 9293 3.1).
const (
	tcpFIN = 0x01
	tcpRST = 0x04
	tcpACK = 0x10
)

// verdict is what becomes of a packet of the host: carried to a peer, or
// dropped.
type verdict struct {
	carrier carrier
	peer    *peer
	drop    dropReason // when there is no carrier
}

// classify decides what becomes of a packet that the host sends into the
// tunnel. The flow table answers for flows that are under way.
func (e *Engine) classify(ip []byte, info *packet.Info, now time.Time) verdict {
	if packet.BadAddr(info.Dst) {
		return verdict{drop: dropLocal} // router solicitations, mDNS and the like
	}
	id, known := e.cfg.Table.Lookup(info.Dst)
	if !known {
		if info.Proto == protoUDP && e.isSelf(info.Src) && e.cfg.Table.IsMirror(info.Dst) {
			return verdict{carrier: carrierMirror}
		}
		return verdict{drop: dropNoPeer}
	}
	if !e.isSelf(info.Src) {
		return verdict{drop: dropForeign}
	}
	p := e.peer(id)
	if p == nil || p.access.Load().onDemand {
		var drop dropReason
		if p, drop = e.onDemand(id, p, info, now); p == nil {
			return verdict{drop: drop}
		}
	}
	a := p.access.Load()
	if a.denied {
		return verdict{drop: dropRules}
	}
	key := outboundKey(ip, info)
	closing := info.Proto == protoTCP && info.TCPFlags&(tcpFIN|tcpRST) != 0
	c := p.table.outbound(key, a.generation, now, closing, func() carrier { return decide(info) })
	return verdict{carrier: c, peer: p}
}

// decide chooses the carrier of a new flow.
func decide(info *packet.Info) carrier {
	if info.Proto == protoTCP {
		return carrierNetstack
	}
	return carrierDatagram
}

// isSelf reports whether the address is this host's own on the overlay.
func (e *Engine) isSelf(a netip.Addr) bool {
	self := e.cfg.Table.Self()
	return a == self.V6 || a == self.V4
}

// outboundKey names the flow of a packet that this host sends.
func outboundKey(ip []byte, info *packet.Info) flowKey {
	key := flowKey{proto: info.Proto, v4: info.Version == 4, local: info.SrcPort, remote: info.DstPort}
	if isEcho(info) {
		key.local, key.remote = echoID(ip, info), 0
	}
	return key
}

// inboundKey names the flow of a packet that the peer sends, as outboundKey
// names it for the packets it answers.
func inboundKey(ip []byte, info *packet.Info) flowKey {
	key := flowKey{proto: info.Proto, v4: info.Version == 4, local: info.DstPort, remote: info.SrcPort}
	if isEcho(info) {
		key.local, key.remote = echoID(ip, info), 0
	}
	return key
}

// isEcho reports whether the packet is an ICMP echo request or reply.
func isEcho(info *packet.Info) bool {
	switch info.Proto {
	case protoICMP:
		return info.ICMPType == 8 || info.ICMPType == 0
	case protoICMPv6:
		return info.ICMPType == 128 || info.ICMPType == 129
	default:
		return false
	}
}

// isEchoReply reports whether the packet answers an echo request.
func isEchoReply(info *packet.Info) bool {
	return info.Proto == protoICMP && info.ICMPType == 0 || info.Proto == protoICMPv6 && info.ICMPType == 129
}

// echoID returns the identifier of an ICMP echo (RFC 792, RFC 4443 4.1), 0 when
// the packet is cut short or a later fragment.
func echoID(ip []byte, info *packet.Info) uint16 {
	if info.FragOffset != 0 || len(ip) < info.L4+6 {
		return 0
	}
	return binary.BigEndian.Uint16(ip[info.L4+4:])
}
