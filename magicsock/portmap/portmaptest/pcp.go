package portmaptest

import (
	"net/netip"
	"time"

	"github.com/nodetun/nodetun/magicsock/portmap/natpmp"
	"github.com/nodetun/nodetun/magicsock/portmap/pcp"
)

// answer serves the port that PCP and NAT-PMP share; the first byte is the
// version.
func (r *Router) answer(b []byte, from netip.AddrPort) []byte {
	r.count()
	switch {
	case len(b) == 0:
		return nil
	case b[0] == pcp.Version && r.opts.PCP:
		return r.answerPCP(b, from)
	case b[0] == pcp.Version: // RFC 6886 9: 0 is the version that is spoken
		return natpmp.AppendAnswer(nil, natpmp.Answer{Result: natpmp.UnsupportedVersion, Epoch: r.epoch()})
	case r.opts.NATPMP:
		return r.answerNATPMP(b, from)
	}
	return nil
}

func (r *Router) answerPCP(b []byte, from netip.AddrPort) []byte {
	q, err := pcp.ParseRequest(b)
	if err != nil {
		return nil
	}
	a := pcp.Answer{Op: q.Op, Epoch: r.epoch(), Map: q.Map}
	switch {
	case q.Client != from.Addr():
		a.Result = pcp.AddressMismatch
	case q.Op == pcp.OpMap:
		m, err := r.grant(netip.AddrPortFrom(from.Addr(), q.Map.Internal), q.Map.External.Port(), q.Lifetime, "pcp", false)
		if err != nil {
			a.Result, a.Lifetime = pcp.NoResources, 30*time.Second
			break
		}
		a.Map.External = netip.AddrPortFrom(r.opts.External, m.External)
		if q.Lifetime > 0 {
			a.Lifetime = time.Until(m.Expires).Round(time.Second)
		}
	}
	return pcp.AppendAnswer(nil, a)
}

func (r *Router) answerNATPMP(b []byte, from netip.AddrPort) []byte {
	op, q, err := natpmp.ParseRequest(b)
	if err != nil {
		return nil
	}
	a := natpmp.Answer{Op: op, Epoch: r.epoch(), Addr: r.opts.External}
	if op != natpmp.OpAddress {
		m, err := r.grant(netip.AddrPortFrom(from.Addr(), q.Internal), q.External, q.Lifetime, "nat-pmp", false)
		if err != nil {
			a.Result = natpmp.OutOfResources
		} else {
			a.Internal, a.External = q.Internal, m.External
			if q.Lifetime > 0 {
				a.Lifetime = time.Until(m.Expires).Round(time.Second)
			}
		}
	}
	return natpmp.AppendAnswer(nil, a)
}
