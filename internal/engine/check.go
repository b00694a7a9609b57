package engine

import (
	"fmt"
	"time"

	"github.com/nodetun/nodetun/internal/packet"
	"github.com/nodetun/nodetun/internal/wire"
)

// unreachableCode answers packets to a peer that is silent.
const unreachableCode = packet.HostUnreachable

// deliver judges a packet of the peer and gives it to the host. It is the one
// way in for everything that is not a TCP flow (S13, S14).
func (p *peer) deliver(s *session, ip []byte, now time.Time) {
	info, err := packet.Parse(ip)
	if err != nil {
		p.engine.count.drop(dropMalformed)
		return
	}
	if reason, ok := checkAddresses(&info, &s.ends); !ok {
		p.engine.count.drop(reason)
		return
	}
	a := p.access.Load()
	if info.Fragment && !a.rules.All() {
		whole := p.reassemble(now, ip, &info)
		if whole == nil {
			return
		}
		if info, err = packet.Parse(whole); err != nil {
			p.engine.count.drop(dropMalformed)
			return
		}
		ip = whole
	}
	if reason, ok := p.check(ip, &info, a, now); !ok {
		p.engine.count.drop(reason)
		if reason == dropRules {
			p.denied(s, ip, &info, now)
		}
		return
	}
	p.engine.toHost(ip)
}

// checkAddresses is S13: from the sender's overlay address to ours, and from
// nothing to nothing else.
func checkAddresses(info *packet.Info, ends *wire.Ends) (dropReason, bool) {
	local, remote := ends.Local6, ends.Remote6
	if info.Version == 4 {
		local, remote = ends.Local4, ends.Remote4
	}
	switch {
	case !remote.IsValid() || info.Src != remote:
		return dropSource, false
	case !local.IsValid() || info.Dst != local:
		return dropDestination, false
	default:
		return 0, true
	}
}

// reassemble collects fragments; nil while some are missing.
func (p *peer) reassemble(now time.Time, ip []byte, info *packet.Info) []byte {
	p.fragmentMu.Lock()
	defer p.fragmentMu.Unlock()
	whole, err := p.fragments.Add(now, ip, *info)
	if err != nil {
		p.engine.count.drop(dropFragment)
		return nil
	}
	return whole
}

// check judges a packet whose addresses are right: answers to what this host
// opened pass, all else needs a rule.
func (p *peer) check(ip []byte, info *packet.Info, a *access, now time.Time) (dropReason, bool) {
	switch {
	case a.denied:
		return dropRules, false
	case packet.Forbidden(*info):
		return dropForbidden, false
	case info.Proto == protoTCP:
		return dropCarrier, false // TCP comes on streams
	case packet.IsICMPError(*info):
		return dropForbidden, p.quotesOurFlow(ip, info, a, now)
	case info.Proto == protoUDP || isEchoReply(info):
		if p.table.answers(inboundKey(ip, info), a.generation, now) {
			return 0, true
		}
	}
	if !a.rules.Allows(info.Proto, info.DstPort) {
		return dropRules, false
	}
	if info.Proto == protoUDP {
		p.table.inbound(inboundKey(ip, info), a.generation, now)
	}
	return 0, true
}

// quotesOurFlow reports whether an ICMP error is about a packet that this host
// sent to the peer (S14).
func (p *peer) quotesOurFlow(ip []byte, info *packet.Info, a *access, now time.Time) bool {
	quoted, err := packet.Quoted(ip, *info)
	if err != nil || quoted.Src != info.Dst || quoted.Dst != info.Src {
		return false
	}
	return p.table.answers(outboundKey(ip, &quoted), a.generation, now)
}

// denied tells the peer and the log that a packet needs a rule that is not
// there; the log at most once in ten seconds.
func (p *peer) denied(s *session, ip []byte, info *packet.Info, now time.Time) {
	if reply := packet.AppendUnreachable(nil, ip, packet.Prohibited, info.Dst); reply != nil {
		s.sendPacket(reply)
	}
	p.logDenied(ruleText(info.Proto, info.DstPort), now)
}

// denialLogInterval keeps a peer from filling the log, by one kind of event.
const denialLogInterval = 10 * time.Second

func (p *peer) logDenied(rule string, now time.Time) {
	if p.denials.allow(now, denialLogInterval) {
		p.engine.log.Warn("denied by the rules of this host", "peer", p.id, "wanted", rule,
			"allow_with", "nodetun allow "+p.id.String()+" "+rule)
	}
}

// ruleText is the rule that would allow the packet.
func ruleText(proto uint8, port uint16) string {
	switch proto {
	case protoTCP:
		return fmt.Sprintf("tcp/%d", port)
	case protoUDP:
		return fmt.Sprintf("udp/%d", port)
	case protoICMP, protoICMPv6:
		return "icmp"
	default:
		return "all"
	}
}
