package dnsmap

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxForwards bounds the questions under way to other servers.
	maxForwards = 256
	// tryTimeout is the patience with one server, forwardTimeout with all.
	// Clients wait 5 s by default (resolv.conf, option timeout).
	tryTimeout     = 1500 * time.Millisecond
	forwardTimeout = 4500 * time.Millisecond
)

// forwarder passes questions on to the servers that the host used before
// (mode file).
type forwarder struct {
	overlay []netip.Prefix
	slots   chan struct{}
	first   atomic.Uint32 // the server that answered last is asked first
	servers atomic.Pointer[[]string]

	mu     sync.Mutex // guards the fields below
	wanted []string
	own    netip.AddrPort // never asked: the question would come back
}

func newForwarder(overlay []netip.Prefix) *forwarder {
	return &forwarder{overlay: overlay, slots: make(chan struct{}, maxForwards)}
}

// set takes servers as ip or ip:port; what is neither is left out.
func (f *forwarder) set(servers []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wanted = slices.Clone(servers)
	f.updateLocked()
}

func (f *forwarder) avoid(own netip.AddrPort) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.own = own
	f.updateLocked()
}

func (f *forwarder) updateLocked() {
	var list []string
	for _, s := range f.wanted {
		if a, ok := parseServer(s); ok && a != f.own {
			list = append(list, a.String())
		}
	}
	f.servers.Store(&list)
}

// parseServer reads an address as resolv.conf has it, or with a port.
func parseServer(s string) (netip.AddrPort, bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a, 53), true
	}
	a, err := netip.ParseAddrPort(s)
	return a, err == nil
}

func (f *forwarder) on() bool { return len(*f.servers.Load()) > 0 }

// exchange asks the other servers; ok is false when there are none. The reply
// is then never nil.
func (f *forwarder) exchange(ctx context.Context, req *dns.Msg) (m *dns.Msg, ok bool) {
	servers := *f.servers.Load()
	if len(servers) == 0 {
		return nil, false
	}
	failed := new(dns.Msg).SetRcode(req, dns.RcodeServerFailure)
	failed.RecursionAvailable = true
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	default:
		return failed, true
	}
	ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
	defer cancel()
	first := int(f.first.Load())
	for i := range servers {
		n := (first + i) % len(servers)
		r, err := askServer(ctx, servers[n], req)
		if err != nil {
			continue
		}
		r.Id, r.Question = req.Id, req.Question
		f.dropOverlay(r)
		if r.Rcode == dns.RcodeServerFailure || r.Rcode == dns.RcodeRefused {
			failed = r // another server may know better
			continue
		}
		f.first.Store(uint32(n))
		return r, true
	}
	return failed, true
}

var errWrongQuestion = errors.New("answer to another question")

// askServer asks by UDP and, when the answer did not fit or made no sense, again by
// TCP. The question goes as it came, EDNS included, under another id. A cut answer is
// better than none: whoever asked may do with it what it likes.
func askServer(ctx context.Context, server string, req *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	cut, err := askBy(ctx, "udp", server, req)
	var malformed *dns.Error
	if err != nil && !errors.As(err, &malformed) || err == nil && !cut.Truncated {
		return cut, err
	}
	whole, tcpErr := askBy(ctx, "tcp", server, req)
	if tcpErr != nil && cut != nil {
		return cut, nil
	}
	return whole, tcpErr
}

// askBy asks once. The error is a *dns.Error for an answer that makes no sense.
func askBy(ctx context.Context, network, server string, req *dns.Msg) (*dns.Msg, error) {
	q := req.Copy()
	q.Id = dns.Id()
	client := dns.Client{Net: network, Timeout: tryTimeout, UDPSize: dns.MaxMsgSize} // some send more than was offered
	r, _, err := client.ExchangeContext(ctx, q, server)
	if err != nil {
		return nil, err
	}
	if !r.Response || !sameQuestion(r, q) {
		return nil, errWrongQuestion
	}
	return r, nil
}

// sameQuestion takes an error without a question too: servers that do not know EDNS
// send one.
func sameQuestion(r, q *dns.Msg) bool {
	if len(r.Question) == 0 {
		return r.Rcode == dns.RcodeFormatError || r.Rcode == dns.RcodeNotImplemented
	}
	return len(r.Question) == 1 && r.Question[0].Qtype == q.Question[0].Qtype &&
		r.Question[0].Qclass == q.Question[0].Qclass && strings.EqualFold(r.Question[0].Name, q.Question[0].Name)
}

// dropOverlay removes the records that point into the overlay (S20): nobody
// outside may give a name to a node of ours.
func (f *forwarder) dropOverlay(m *dns.Msg) {
	inside := func(rr dns.RR) bool { return slices.ContainsFunc(addressesOf(rr), f.inOverlay) }
	m.Answer = slices.DeleteFunc(m.Answer, inside)
	m.Ns = slices.DeleteFunc(m.Ns, inside)
	m.Extra = slices.DeleteFunc(m.Extra, inside)
}

func (f *forwarder) inOverlay(ip net.IP) bool {
	a, ok := netip.AddrFromSlice(ip)
	a = a.Unmap()
	return ok && slices.ContainsFunc(f.overlay, func(p netip.Prefix) bool { return p.Contains(a) })
}

// addressesOf lists the addresses in a record: those of A and AAAA, and the
// hints of SVCB and HTTPS.
func addressesOf(rr dns.RR) []net.IP {
	switch rr := rr.(type) {
	case *dns.A:
		return []net.IP{rr.A}
	case *dns.AAAA:
		return []net.IP{rr.AAAA}
	case *dns.SVCB:
		return hints(rr)
	case *dns.HTTPS:
		return hints(&rr.SVCB)
	default:
		return nil
	}
}

func hints(rr *dns.SVCB) []net.IP {
	var ips []net.IP
	for _, v := range rr.Value {
		switch v := v.(type) {
		case *dns.SVCBIPv4Hint:
			ips = append(ips, v.Hint...)
		case *dns.SVCBIPv6Hint:
			ips = append(ips, v.Hint...)
		}
	}
	return ips
}
