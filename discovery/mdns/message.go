package mdns

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/nodetun/nodetun/discovery"
	"github.com/nodetun/nodetun/identity"
)

// service is the name that iroh-net asks for. It is no service of DNS-SD: five labels, and
// its answers are no pointers.
const service = "_iroh.local.swarm._udp.local."

// goodbye is the text by which a node of ours says that it leaves.
const goodbye = "goodbye"

// maxMessage is the largest message, in bytes: what fits into one packet.
const maxMessage = 1400

// instance is the name of a node.
func instance(id identity.NodeID) string { return id.String() + "." + service }

// nodeOf is the node that a name is of.
func nodeOf(name string) (identity.NodeID, bool) {
	label, ok := strings.CutSuffix(strings.ToLower(name), "."+service)
	if !ok {
		return identity.NodeID{}, false
	}
	id, err := identity.ParseNodeID(label)
	return id, err == nil
}

// query asks who is there: PTR of the service, as iroh-net asks.
func query() []byte { return question(service, dns.TypePTR) }

// queryFor asks one node: SRV of its name. Only nodes of ours answer it.
func queryFor(id identity.NodeID) []byte { return question(instance(id), dns.TypeSRV) }

func question(name string, kind uint16) []byte {
	m := dns.Msg{Question: []dns.Question{{Name: name, Qtype: kind, Qclass: dns.ClassINET}}}
	return packed(&m)
}

// packed writes a message that is sure to be one.
func packed(m *dns.Msg) []byte {
	m.Compress = true
	b, err := m.Pack()
	if err != nil {
		panic("mdns: " + err.Error())
	}
	return b
}

// announcement says where a node is, with as many addresses as fit; nil if it is nowhere:
//
//	answers      SRV <id>.<service>, one for each port, to <id>-<port>.local.
//	additionals  A and AAAA of these
func announcement(addr identity.NodeAddr) []byte {
	addr.Direct = addr.Direct[:min(len(addr.Direct), discovery.MaxDirect)]
	b := announce(addr)
	for ; len(b) > maxMessage; b = announce(addr) {
		addr.Direct = addr.Direct[:len(addr.Direct)-1]
	}
	return b
}

func announce(addr identity.NodeAddr) []byte {
	m := dns.Msg{MsgHdr: dns.MsgHdr{Response: true, Authoritative: true}}
	byPort := make(map[uint16][]netip.Addr)
	for _, a := range addr.Direct {
		byPort[a.Port()] = append(byPort[a.Port()], a.Addr().Unmap())
	}
	for _, a := range addr.Direct { // in their order
		target := fmt.Sprintf("%s-%d.local.", addr.ID, a.Port())
		ips := byPort[a.Port()]
		if len(ips) == 0 {
			continue
		}
		delete(byPort, a.Port())
		m.Answer = append(m.Answer, &dns.SRV{Hdr: header(instance(addr.ID), dns.TypeSRV), Target: target, Port: a.Port()})
		for _, ip := range ips {
			if ip.Is4() {
				m.Extra = append(m.Extra, &dns.A{Hdr: header(target, dns.TypeA), A: ip.AsSlice()})
			} else if ip.Zone() == "" {
				m.Extra = append(m.Extra, &dns.AAAA{Hdr: header(target, dns.TypeAAAA), AAAA: ip.AsSlice()})
			}
		}
	}
	if len(m.Extra) == 0 {
		return nil
	}
	return packed(&m)
}

// farewell says that a node leaves.
func farewell(id identity.NodeID) []byte {
	return packed(&dns.Msg{
		MsgHdr: dns.MsgHdr{Response: true, Authoritative: true},
		Answer: []dns.RR{&dns.TXT{Hdr: header(instance(id), dns.TypeTXT), Txt: []string{goodbye}}},
	})
}

// header is that of a record; iroh-net gives all of them no time to live.
func header(name string, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET}
}

// message is what a packet says.
type message struct {
	// asks: who is there; asked: a node that is asked for, zero for none.
	asks  bool
	asked identity.NodeID
	// addr is where a node says it is; its ID is zero for none.
	addr identity.NodeAddr
	// left is a node that leaves, zero for none.
	left identity.NodeID
}

var errNotOurs = errors.New("no message of this kind")

// parse reads a packet. At most discovery.MaxDirect addresses, of one node, are taken.
func parse(b []byte) (m message, err error) {
	var in dns.Msg
	if err := in.Unpack(b); err != nil {
		return m, err
	}
	if !in.Response {
		for _, q := range in.Question {
			switch id, isNode := nodeOf(q.Name); {
			case q.Qclass&0x7fff != dns.ClassINET: // the highest bit wants an answer to the asker alone
			case strings.EqualFold(q.Name, service) && q.Qtype == dns.TypePTR:
				m.asks = true
			case isNode && (q.Qtype == dns.TypeSRV || q.Qtype == dns.TypeANY):
				m.asked = id
			}
		}
		if !m.asks && m.asked.IsZero() {
			return m, errNotOurs
		}
		return m, nil
	}
	ports := make(map[string]uint16)
	for _, rr := range in.Answer {
		id, ok := nodeOf(rr.Header().Name)
		switch rr := rr.(type) {
		case *dns.SRV:
			if ok && (m.addr.ID.IsZero() || m.addr.ID == id) {
				m.addr.ID = id
				ports[strings.ToLower(rr.Target)] = rr.Port
			}
		case *dns.TXT:
			if ok && len(rr.Txt) == 1 && rr.Txt[0] == goodbye {
				m.left = id
			}
		}
	}
	for _, rr := range in.Extra {
		var ip netip.Addr
		switch rr := rr.(type) {
		case *dns.A:
			ip, _ = netip.AddrFromSlice(rr.A.To4())
		case *dns.AAAA:
			ip, _ = netip.AddrFromSlice(rr.AAAA)
		}
		port := ports[strings.ToLower(rr.Header().Name)]
		if at := netip.AddrPortFrom(ip, port); ip.IsValid() && port != 0 && len(m.addr.Direct) < discovery.MaxDirect && !slices.Contains(m.addr.Direct, at) {
			m.addr.Direct = append(m.addr.Direct, at)
		}
	}
	if len(m.addr.Direct) == 0 {
		m.addr = identity.NodeAddr{}
		if m.left.IsZero() {
			return m, errNotOurs
		}
	}
	return m, nil
}
