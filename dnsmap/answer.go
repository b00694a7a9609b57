package dnsmap

import (
	"context"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

const (
	// answerTTL is short, because IPv4 mappings of nodes that are no peers
	// come and go; negativeTTL shorter, because a name that is missing now may
	// be given in the next moment. In seconds.
	answerTTL   = 30
	negativeTTL = 5
)

// reply answers a question, nil when there is nothing to send.
func (s *Server) reply(ctx context.Context, req *dns.Msg, tcp bool) *dns.Msg {
	if len(req.Question) != 1 || req.Response {
		if req.Response {
			return nil
		}
		return new(dns.Msg).SetRcodeFormatError(req)
	}
	if req.Opcode != dns.OpcodeQuery {
		return new(dns.Msg).SetRcode(req, dns.RcodeNotImplemented)
	}
	if opt := req.IsEdns0(); opt != nil && opt.Version() != 0 {
		m := new(dns.Msg).SetReply(req)
		m.SetEdns0(maxUDP, false)
		m.Rcode = dns.RcodeBadVers
		return m
	}
	m := s.dispatch(ctx, req)
	m.Compress = true
	if !tcp {
		m.Truncate(udpSize(req))
	}
	return m
}

// udpSize is what the client takes by UDP.
func udpSize(req *dns.Msg) int {
	opt := req.IsEdns0()
	if opt == nil {
		return dns.MinMsgSize
	}
	return min(maxUDP, max(dns.MinMsgSize, int(opt.UDPSize())))
}

func (s *Server) dispatch(ctx context.Context, req *dns.Msg) *dns.Msg {
	q := req.Question[0]
	labels := dns.SplitDomainName(q.Name)
	ours := q.Qclass == dns.ClassINET || q.Qclass == dns.ClassANY
	if rest, ok := below(labels, s.zone); ok && ours {
		return s.inZone(req, rest)
	}
	for _, zone := range s.reverse {
		if _, ok := below(labels, zone); ok && ours {
			return s.inReverse(req, labels, zone)
		}
	}
	if m, ok := s.forward.exchange(ctx, req); ok {
		return m
	}
	return s.answer(req).code(dns.RcodeRefused)
}

// below returns the labels in front of a zone's, and whether the name is the
// zone or lies in it.
func below(labels []string, zone string) ([]string, bool) {
	z := dns.SplitDomainName(zone)
	n := len(labels) - len(z)
	if n < 0 {
		return nil, false
	}
	for i, l := range z {
		if !strings.EqualFold(labels[n+i], l) {
			return nil, false
		}
	}
	return labels[:n], true
}

// answer is a reply in the making.
type answer struct {
	m *dns.Msg
	q dns.Question
}

func (s *Server) answer(req *dns.Msg) answer {
	m := new(dns.Msg).SetReply(req)
	if req.IsEdns0() != nil {
		m.SetEdns0(maxUDP, false)
	}
	m.RecursionAvailable = s.forward.on()
	return answer{m: m, q: req.Question[0]}
}

func (a answer) code(rcode int) *dns.Msg {
	a.m.Rcode = rcode
	return a.m
}

// header is that of a record about the name in the question, in its case.
func (a answer) header(rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: a.q.Name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: answerTTL}
}

func (a answer) asks(rrtype uint16) bool {
	return a.q.Qtype == rrtype || a.q.Qtype == dns.TypeANY
}

// addresses adds the records asked for.
func (a answer) addresses(v6, v4 netip.Addr) {
	if v6.IsValid() && a.asks(dns.TypeAAAA) {
		a.m.Answer = append(a.m.Answer, &dns.AAAA{Hdr: a.header(dns.TypeAAAA), AAAA: v6.AsSlice()})
	}
	if v4.IsValid() && a.asks(dns.TypeA) {
		a.m.Answer = append(a.m.Answer, &dns.A{Hdr: a.header(dns.TypeA), A: v4.AsSlice()})
	}
}

// finish makes the reply authoritative; one without records, or with an error,
// gets the SOA of the zone, which bounds how long it is remembered.
func (a answer) finish(zone, ns string, rcode int) *dns.Msg {
	a.m.Authoritative = true
	a.m.Rcode = rcode
	if len(a.m.Answer) == 0 {
		a.m.Ns = append(a.m.Ns, soa(zone, ns, negativeTTL))
	}
	return a.m
}

// inZone answers a question about the zone, or one label in front of it.
func (s *Server) inZone(req *dns.Msg, rest []string) *dns.Msg {
	a := s.answer(req)
	if a.q.Qtype == dns.TypeAXFR || a.q.Qtype == dns.TypeIXFR {
		return a.code(dns.RcodeRefused)
	}
	switch len(rest) {
	case 0:
		return s.apex(a, s.zone)
	case 1:
		return s.host(a, toLower(rest[0]))
	default:
		return a.finish(s.zone, s.ns(), dns.RcodeNameError)
	}
}

// ns is the name of this server. No petname can be it.
func (s *Server) ns() string { return "ns." + s.zone }

func (s *Server) apex(a answer, zone string) *dns.Msg {
	if a.asks(dns.TypeSOA) {
		record := soa(zone, s.ns(), answerTTL)
		record.Hdr.Name = a.q.Name
		a.m.Answer = append(a.m.Answer, record)
	}
	if a.asks(dns.TypeNS) {
		a.m.Answer = append(a.m.Answer, &dns.NS{Hdr: a.header(dns.TypeNS), Ns: s.ns()})
	}
	return a.finish(zone, s.ns(), dns.RcodeSuccess)
}

func (s *Server) host(a answer, label string) *dns.Msg {
	if label == "ns" {
		if own := s.Addr().Addr(); own.Is4() {
			a.addresses(netip.Addr{}, own)
		} else {
			a.addresses(own, netip.Addr{})
		}
		return a.finish(s.zone, s.ns(), dns.RcodeSuccess)
	}
	id, ok := s.cfg.Names.node(label)
	if !ok {
		return a.finish(s.zone, s.ns(), dns.RcodeNameError)
	}
	v6, v4, ok := s.cfg.Lookup(id, a.asks(dns.TypeAAAA) || a.asks(dns.TypeA))
	if !ok {
		return a.finish(s.zone, s.ns(), dns.RcodeNameError)
	}
	a.addresses(v6, v4)
	return a.finish(s.zone, s.ns(), dns.RcodeSuccess)
}

// inReverse answers a question below a reverse zone of the overlay.
func (s *Server) inReverse(req *dns.Msg, labels []string, zone string) *dns.Msg {
	a := s.answer(req)
	if a.q.Qtype == dns.TypeAXFR || a.q.Qtype == dns.TypeIXFR {
		return a.code(dns.RcodeRefused)
	}
	addr, complete, ok := parseReverse(labels[:len(labels)-2], strings.HasSuffix(zone, arpa4))
	switch {
	case !ok:
		return a.finish(zone, s.ns(), dns.RcodeNameError)
	case !complete && strings.EqualFold(a.q.Name, zone):
		return s.apex(a, zone)
	case !complete: // names exist below it
		return a.finish(zone, s.ns(), dns.RcodeSuccess)
	}
	id, ok := s.cfg.Reverse(addr)
	if !ok {
		return a.finish(zone, s.ns(), dns.RcodeNameError)
	}
	if a.asks(dns.TypePTR) {
		a.m.Answer = append(a.m.Answer, &dns.PTR{Hdr: a.header(dns.TypePTR), Ptr: s.cfg.Names.FQDN(id) + "."})
	}
	return a.finish(zone, s.ns(), dns.RcodeSuccess)
}

func soa(zone, ns string, ttl uint32) *dns.SOA {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl},
		Ns:  ns, Mbox: "hostmaster." + zone, Serial: 1,
		Refresh: 3600, Retry: 600, Expire: 86400, Minttl: negativeTTL,
	}
}
