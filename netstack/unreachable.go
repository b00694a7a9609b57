package netstack

import (
	"encoding/binary"

	"github.com/nodetun/nodetun/internal/vnet"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Reason is why a caller cannot be connected, as ICMP says it.
type Reason uint8

// Reasons, with what connect() reports to a program on Linux.
const (
	// NoRoute: network unreachable (ENETUNREACH).
	NoRoute Reason = iota
	// HostUnreachable: no route to host (EHOSTUNREACH).
	HostUnreachable
	// Prohibited: EHOSTUNREACH over IPv4, permission denied (EACCES) over IPv6.
	Prohibited
)

// codes are those of "destination unreachable" for each reason, of ICMPv4 (RFC
// 792, RFC 1812 section 5.2.7.1) and ICMPv6 (RFC 4443 section 3.1).
var codes = [...]struct {
	v4 header.ICMPv4Code
	v6 header.ICMPv6Code
}{
	NoRoute:         {header.ICMPv4NetUnreachable, header.ICMPv6NetworkUnreachable},
	HostUnreachable: {header.ICMPv4HostUnreachable, header.ICMPv6AddressUnreachable},
	Prohibited:      {header.ICMPv4AdminProhibited, header.ICMPv6Prohibited},
}

// Unreachable answers with an ICMP error from the address that was called,
// without RST. Linux takes it at once as the result of connect(), also when
// the SYN was sent again meanwhile. After another answer it does nothing.
func (p *Pending) Unreachable(reason Reason) {
	if !p.decide() {
		return
	}
	p.req.Complete(false)
	if int(reason) >= len(codes) {
		reason = HostUnreachable
	}
	if err := p.stack.cfg.Write(vnet.Header{}, icmpError(p.syn, reason)); err != nil {
		p.stack.link.writeErrors.Add(1)
	}
}

// icmpError makes the ICMP error to the sender of a SYN: an IP header, the
// eight bytes of ICMP and the headers of the SYN.
func icmpError(syn []byte, reason Reason) []byte {
	if syn[0]>>4 == 6 {
		return icmp6Error(header.IPv6(syn), reason)
	}
	orig := header.IPv4(syn)
	b := make([]byte, header.IPv4MinimumSize+header.ICMPv4MinimumSize+len(syn))
	header.IPv4(b).Encode(&header.IPv4Fields{
		TotalLength: uint16(len(b)),
		TTL:         64,
		Protocol:    uint8(header.ICMPv4ProtocolNumber),
		SrcAddr:     orig.DestinationAddress(),
		DstAddr:     orig.SourceAddress(),
	})
	header.IPv4(b).SetChecksum(^header.IPv4(b).CalculateChecksum())
	message := header.ICMPv4(b[header.IPv4MinimumSize:])
	message.SetType(header.ICMPv4DstUnreachable)
	message.SetCode(codes[reason].v4)
	copy(message[header.ICMPv4MinimumSize:], syn)
	message.SetChecksum(^checksum.Checksum(message, 0))
	return b
}

// icmp6Error is icmpError for IPv6.
func icmp6Error(syn header.IPv6, reason Reason) []byte {
	b := make([]byte, header.IPv6MinimumSize+header.ICMPv6DstUnreachableMinimumSize+len(syn))
	src, dst := syn.DestinationAddress(), syn.SourceAddress()
	length := len(b) - header.IPv6MinimumSize
	header.IPv6(b).Encode(&header.IPv6Fields{
		PayloadLength:     uint16(length),
		TransportProtocol: header.ICMPv6ProtocolNumber,
		HopLimit:          64,
		SrcAddr:           src,
		DstAddr:           dst,
	})
	message := header.ICMPv6(b[header.IPv6MinimumSize:])
	message.SetType(header.ICMPv6DstUnreachable)
	message.SetCode(codes[reason].v6)
	copy(message[header.ICMPv6DstUnreachableMinimumSize:], syn)
	pseudo := header.PseudoHeaderChecksum(tcpip.TransportProtocolNumber(header.ICMPv6ProtocolNumber), src, dst, uint16(length))
	binary.BigEndian.PutUint16(message[2:], ^checksum.Checksum(message, pseudo))
	return b
}
