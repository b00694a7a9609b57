package netstack

import (
	"github.com/nodetun/nodetun/internal/packet"
	"github.com/nodetun/nodetun/internal/vnet"
)

// Reasons for Unreachable, with what connect() reports to a program on Linux
// over IPv4 and IPv6, as measured.
const (
	// NoRoute: "network is unreachable" (ENETUNREACH).
	NoRoute = packet.NoRoute
	// HostUnreachable: "no route to host" (EHOSTUNREACH).
	HostUnreachable = packet.HostUnreachable
	// Prohibited: "no route to host" (EHOSTUNREACH), over IPv6 "permission
	// denied" (EACCES).
	Prohibited = packet.Prohibited
)

// Unreachable answers with an ICMP error from the address that was called,
// without RST. Linux takes it at once as the result of connect(), also when
// the SYN was sent again meanwhile. A request that ICMP must not answer is
// reset. After another answer it does nothing, and for a caller that gave up: the port may
// be another one's by now.
func (p *Pending) Unreachable(code packet.Code) {
	if !p.decide() {
		return
	}
	if p.left() {
		p.finish(false)
		return
	}
	answer := packet.AppendUnreachable(nil, p.syn, code, p.dst.Addr())
	p.finish(answer == nil)
	if answer == nil {
		return
	}
	if err := p.stack.cfg.Write(vnet.Header{}, answer); err != nil {
		p.stack.link.writeErrors.Add(1)
	}
}
