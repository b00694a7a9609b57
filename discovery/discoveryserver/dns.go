package discoveryserver

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/nodetun/nodetun/discovery/pkarr"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/webserver"
)

const (
	// maxUDP is the largest answer by UDP, whatever the client takes: larger ones are
	// cut to pieces on the way (RFC 9715).
	maxUDP = 1232
	// tcpIdle ends a TCP connection without questions, storeTimeout a question to the
	// store.
	tcpIdle      = 5 * time.Second
	storeTimeout = 2 * time.Second
	// maxTCPQueries is how many questions one TCP connection may ask.
	maxTCPQueries = 128

	staticTTL   = 3600 // of the server's own records, in seconds
	negativeTTL = 30   // of what is not there: the node may come at any moment
	maxTTL      = 3600 // of the records of nodes
)

// dnsHandler answers questions that came by UDP or TCP.
func (s *Server) dnsHandler(ctx context.Context, udp bool) dns.HandlerFunc {
	return func(w dns.ResponseWriter, req *dns.Msg) {
		if req.Response {
			return // an answer to an answer would go on for ever
		}
		count, limit := &s.count.dnsTCP, s.asked
		if udp {
			count, limit = &s.count.dnsUDP, s.queries
		}
		count.Add(1)
		if !limit.Allow(webserver.AddrOf(w.RemoteAddr()), time.Now()) {
			s.limited(w, req, udp)
			return
		}
		res := s.answer(ctx, req)
		if udp {
			size := dns.MinMsgSize
			if opt := req.IsEdns0(); opt != nil {
				size = min(max(int(opt.UDPSize()), size), maxUDP)
			}
			res.Truncate(size)
		}
		_ = w.WriteMsg(res)
	}
}

// limited serves a network that asks too much. Half of its questions by UDP get no answer, the
// others are sent to TCP, which cannot be asked in another's name; there it is refused. No
// answer is longer than the question.
func (s *Server) limited(w dns.ResponseWriter, req *dns.Msg, udp bool) {
	odd := s.count.dnsLimited.Add(1)%2 != 0
	res := new(dns.Msg).SetReply(req)
	switch {
	case !udp:
		res.Rcode = dns.RcodeRefused
	case odd:
		res.Truncated = true
	default:
		return
	}
	_ = w.WriteMsg(res)
}

// answer answers one query. Answers are authoritative, for names below the origins:
//
//	<labels>.<z-base-32>.<origin>: what the packet of the node says of <labels>.<z-base-32>
//	<origin>: SOA, NS, A and AAAA of this server
func (s *Server) answer(ctx context.Context, req *dns.Msg) *dns.Msg {
	res := new(dns.Msg)
	switch {
	case req.Opcode != dns.OpcodeQuery:
		return res.SetRcode(req, dns.RcodeNotImplemented)
	case len(req.Question) != 1:
		return res.SetRcode(req, dns.RcodeFormatError)
	}
	res.SetReply(req)
	if opt := req.IsEdns0(); opt != nil {
		res.SetEdns0(maxUDP, false)
		if opt.Version() != 0 {
			res.Rcode = dns.RcodeBadVers
			return res
		}
	}
	q := req.Question[0]
	origin, rest, ok := s.split(q.Name)
	if !ok || q.Qclass != dns.ClassINET || q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR {
		res.Rcode = dns.RcodeRefused
		return res
	}
	res.Authoritative = true
	var err error
	var exists bool
	if rest == "" {
		exists = true
		res.Answer = s.own(q, origin)
	} else {
		res.Answer, exists, err = s.ofNode(ctx, q, rest)
	}
	switch {
	case err != nil:
		if !errors.Is(err, errLater) {
			s.count.storeErrors.Add(1)
			s.storeErr(err)
		}
		res.Authoritative = false
		res.Rcode = dns.RcodeServerFailure
		return res
	case !exists:
		s.count.dnsMissing.Add(1)
		res.Rcode = dns.RcodeNameError
	default:
		s.count.dnsFound.Add(1)
	}
	if len(res.Answer) == 0 {
		res.Ns = []dns.RR{s.soa(origin, negativeTTL)}
	}
	return res
}

// split finds the origin that a name is below, the longest one, and what is before it, in
// lower case and without a dot at its end.
func (s *Server) split(name string) (origin, rest string, ok bool) {
	name = strings.ToLower(dns.Fqdn(name))
	for _, o := range s.origins { // the longest first
		if name == o {
			return o, "", true
		}
		if before, below := strings.CutSuffix(name, "."+strings.TrimPrefix(o, ".")); below && before != "" {
			return o, strings.TrimSuffix(before, "."), true
		}
	}
	return "", "", false
}

// ofNode answers from the packet of the node that a name leads to.
func (s *Server) ofNode(ctx context.Context, q dns.Question, name string) (list []dns.RR, exists bool, err error) {
	labels := dns.SplitDomainName(name)
	id, err := identity.ParseZ32(labels[len(labels)-1])
	if err != nil {
		return nil, false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	p, err := s.cache.get(ctx, id)
	if errors.Is(err, ErrNotFound) && s.elsewhere != nil {
		p, err = s.elsewhere.get(ctx, id)
	}
	if errors.Is(err, ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	list, exists = match(p, q, name+".")
	return list, exists, nil
}

// match picks the records of a packet that answer a question; exists says that there is
// something at the name or below it.
func match(p pkarr.Packet, q dns.Question, owner string) (list []dns.RR, exists bool) {
	signer := p.ID().Z32() + "."
	exists = owner == signer
	for _, rr := range p.Records() {
		h := rr.Header()
		name := strings.ToLower(h.Name)
		switch {
		case name != signer && !strings.HasSuffix(name, "."+signer), h.Class != dns.ClassINET, h.Rrtype == dns.TypeSOA, h.Rrtype == dns.TypeNS:
			continue
		case name != owner:
			exists = exists || strings.HasSuffix(name, "."+owner)
			continue
		}
		exists = true
		if h.Rrtype == q.Qtype || h.Rrtype == dns.TypeCNAME {
			h.Name, h.Ttl = q.Name, min(h.Ttl, maxTTL)
			list = append(list, rr)
		}
	}
	return list, exists
}

// own answers about an origin itself.
func (s *Server) own(q dns.Question, origin string) (list []dns.RR) {
	header := func(kind uint16) dns.RR_Header {
		return dns.RR_Header{Name: q.Name, Rrtype: kind, Class: dns.ClassINET, Ttl: staticTTL}
	}
	switch q.Qtype {
	case dns.TypeSOA:
		list = append(list, s.soa(origin, staticTTL))
	case dns.TypeNS:
		for _, ns := range s.cfg.NameServers {
			list = append(list, &dns.NS{Hdr: header(dns.TypeNS), Ns: dns.Fqdn(ns)})
		}
	case dns.TypeA, dns.TypeAAAA:
		for _, a := range s.cfg.Addrs {
			switch {
			case a.Is4() && q.Qtype == dns.TypeA:
				list = append(list, &dns.A{Hdr: header(dns.TypeA), A: a.AsSlice()})
			case a.Is6() && q.Qtype == dns.TypeAAAA:
				list = append(list, &dns.AAAA{Hdr: header(dns.TypeAAAA), AAAA: a.AsSlice()})
			}
		}
	}
	return list
}

// soa is the record of an origin. Nobody transfers these zones: the serial does not count.
func (s *Server) soa(origin string, ttl uint32) dns.RR {
	primary := "ns." + strings.TrimPrefix(origin, ".")
	if len(s.cfg.NameServers) > 0 {
		primary = dns.Fqdn(s.cfg.NameServers[0])
	}
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: origin, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl},
		Ns:  primary, Mbox: "hostmaster." + strings.TrimPrefix(origin, "."), Serial: 1, Refresh: 10800, Retry: 3600, Expire: 604800, Minttl: negativeTTL,
	}
}

// origins brings names of zones into the form that split takes.
func sortedOrigins(list []string) []string {
	var all []string
	for _, o := range list {
		all = append(all, strings.ToLower(dns.Fqdn(o)))
	}
	slices.SortFunc(all, func(a, b string) int { return len(b) - len(a) })
	return slices.Compact(all)
}
