package dnsmap_test

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"

	"github.com/nodetun/nodetun/dnsmap"
)

// upstream is a DNS server as an Internet provider has it.
type upstream struct {
	addr  string
	asked atomic.Int64
	tcp   atomic.Int64
}

func startUpstream(t *testing.T, handle func(q *dns.Msg, tcp bool) *dns.Msg) *upstream {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{addr: pc.LocalAddr().String()}
	l, err := net.Listen("tcp", u.addr)
	if err != nil {
		pc.Close()
		t.Skipf("the port is taken by tcp: %v", err)
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		u.asked.Add(1)
		_, tcp := w.RemoteAddr().(*net.TCPAddr)
		if tcp {
			u.tcp.Add(1)
		}
		w.WriteMsg(handle(q, tcp))
	})
	var wg, up sync.WaitGroup
	servers := []*dns.Server{{PacketConn: pc}, {Listener: l}}
	up.Add(len(servers))
	for _, s := range servers {
		s.Handler = handler
		s.NotifyStartedFunc = up.Done
		wg.Go(func() { s.ActivateAndServe() })
	}
	up.Wait()
	t.Cleanup(func() {
		for _, s := range servers {
			s.Shutdown()
		}
		wg.Wait()
	})
	return u
}

func record(t *testing.T, s string) dns.RR {
	rr, err := dns.NewRR(s)
	if err != nil {
		t.Error(err)
	}
	return rr
}

func startForwarding(t *testing.T, servers ...string) *world {
	return start(t, func(c *dnsmap.Config) { c.Forward = servers })
}

func TestForward(t *testing.T) {
	u := startUpstream(t, func(q *dns.Msg, _ bool) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		m.RecursionAvailable = true
		if opt := q.IsEdns0(); opt != nil {
			m.SetEdns0(opt.UDPSize(), opt.Do())
		}
		if q.Question[0].Qtype == dns.TypeA {
			m.Answer = []dns.RR{record(t, q.Question[0].Name+" 60 IN A 192.0.2.80")}
		} else {
			m.Rcode = dns.RcodeNameError
		}
		return m
	})
	w := startForwarding(t, u.addr)
	m := new(dns.Msg).SetQuestion("wWw.ExAmPlE.cOm.", dns.TypeA)
	m.SetEdns0(1400, true)
	for _, network := range []string{"udp", "tcp"} {
		r := exchange(t, network, w.addr, m)
		if answers(r) != "192.0.2.80" || !r.RecursionAvailable || r.Authoritative || r.Question[0].Name != m.Question[0].Name {
			t.Errorf("%s: %v", network, r)
		}
		if opt := r.IsEdns0(); opt == nil || !opt.Do() {
			t.Errorf("%s: EDNS lost: %v", network, r)
		}
	}
	if r := w.ask(t, "nothing.example.com", dns.TypeAAAA); r.Rcode != dns.RcodeNameError {
		t.Errorf("rcode %v", r)
	}
	asked := u.asked.Load()
	w.ask(t, "nas.node.internal", dns.TypeA)
	w.ask(t, "nobody.node.internal", dns.TypeA)
	w.ask(t, "1.1.100.100.in-addr.arpa", dns.TypePTR)
	if u.asked.Load() != asked {
		t.Error("questions about our zones left the host")
	}
	w.server.SetForward(nil)
	if r := w.ask(t, "www.example.com", dns.TypeA); r.Rcode != dns.RcodeRefused {
		t.Errorf("after SetForward(nil): %v", r)
	}
}

// S20: an outside name that points at our peers (DNS rebinding).
func TestS20AnswersInsideTheOverlayAreDropped(t *testing.T) {
	u := startUpstream(t, func(q *dns.Msg, _ bool) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		name := q.Question[0].Name
		m.Answer = []dns.RR{
			record(t, name+" 60 IN A 192.0.2.80"),
			record(t, name+" 60 IN A 100.100.3.4"),
			record(t, name+" 60 IN AAAA fd6e:6f64:6574::1"),
			record(t, name+" 60 IN AAAA ::ffff:100.100.3.4"),
			record(t, name+` 60 IN HTTPS 1 . ipv4hint="100.100.3.4"`),
			record(t, name+` 60 IN SVCB 1 . ipv6hint="fd6e:6f64:6574::1"`),
			record(t, name+` 60 IN TXT "fine"`),
		}
		m.Extra = []dns.RR{record(t, "x.example.com. 60 IN A 100.100.3.4")}
		return m
	})
	w := startForwarding(t, u.addr)
	r := exchange(t, "tcp", w.addr, new(dns.Msg).SetQuestion("evil.example.com.", dns.TypeANY))
	if got := answers(r); got != `192.0.2.80 "fine"` || len(r.Extra) != 0 {
		t.Errorf("%v", r)
	}
}

func TestForwardTruncated(t *testing.T) {
	u := startUpstream(t, func(q *dns.Msg, tcp bool) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		if !tcp {
			m.Truncated = true
			return m
		}
		for range 100 {
			m.Answer = append(m.Answer, record(t, q.Question[0].Name+` 60 IN TXT "`+strings.Repeat("x", 200)+`"`))
		}
		return m
	})
	w := startForwarding(t, u.addr)
	if r := w.ask(t, "big.example.com", dns.TypeTXT); !r.Truncated {
		t.Errorf("UDP: not truncated, %d answers", len(r.Answer))
	}
	r := exchange(t, "tcp", w.addr, new(dns.Msg).SetQuestion("big.example.com.", dns.TypeTXT))
	if r.Truncated || len(r.Answer) != 100 {
		t.Errorf("TCP: truncated %v, %d answers", r.Truncated, len(r.Answer))
	}
}

func TestForwardTriesTheNextServer(t *testing.T) {
	refusing := startUpstream(t, func(q *dns.Msg, _ bool) *dns.Msg {
		return new(dns.Msg).SetRcode(q, dns.RcodeRefused)
	})
	good := startUpstream(t, func(q *dns.Msg, _ bool) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{record(t, q.Question[0].Name+" 60 IN A 192.0.2.80")}
		return m
	})
	closed, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close() // its port answers with ICMP
	w := startForwarding(t, "no address", closed.LocalAddr().String(), refusing.addr, good.addr)
	for range 3 {
		if r := w.ask(t, "www.example.com", dns.TypeA); answers(r) != "192.0.2.80" {
			t.Errorf("%v", r)
		}
	}
	if n := refusing.asked.Load(); n != 1 {
		t.Errorf("the refusing server was asked %d times: the good one is not remembered", n)
	}
	w.server.SetForward([]string{refusing.addr})
	if r := w.ask(t, "www.example.com", dns.TypeA); r.Rcode != dns.RcodeRefused {
		t.Errorf("all refuse: %v", r)
	}
	w.server.SetForward([]string{closed.LocalAddr().String()})
	if r := w.ask(t, "www.example.com", dns.TypeA); r.Rcode != dns.RcodeServerFailure {
		t.Errorf("none answers: %v", r)
	}
}

// resolv.conf may hold our own address, from a crash or by hand.
func TestForwardNeverAsksItself(t *testing.T) {
	w := start(t, nil)
	w.server.SetForward([]string{w.addr})
	if r := w.ask(t, "www.example.com", dns.TypeA); r.Rcode != dns.RcodeRefused {
		t.Errorf("%v", r)
	}
}

// An answer to another question is not passed on.
func TestForwardChecksTheQuestion(t *testing.T) {
	u := startUpstream(t, func(q *dns.Msg, _ bool) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		m.Question[0].Name = "bank.example.com."
		m.Answer = []dns.RR{record(t, "bank.example.com. 60 IN A 192.0.2.66")}
		return m
	})
	w := startForwarding(t, u.addr)
	if r := w.ask(t, "www.example.com", dns.TypeA); r.Rcode != dns.RcodeServerFailure || len(r.Answer) != 0 {
		t.Errorf("%v", r)
	}
}

func TestReverseZones(t *testing.T) {
	for prefix, want := range map[string]string{
		"fd6e:6f64:6574::/48": "4.7.5.6.4.6.f.6.e.6.d.f.ip6.arpa.",
		"100.100.0.0/16":      "100.100.in-addr.arpa.",
		"10.0.0.0/8":          "10.in-addr.arpa.",
		"172.16.0.0/14":       "16.172.in-addr.arpa. 17.172.in-addr.arpa. 18.172.in-addr.arpa. 19.172.in-addr.arpa.",
		"10.1.2.0/24":         "2.1.10.in-addr.arpa.",
		"10.1.2.4/30":         "4.2.1.10.in-addr.arpa. 5.2.1.10.in-addr.arpa. 6.2.1.10.in-addr.arpa. 7.2.1.10.in-addr.arpa.",
	} {
		if got := strings.Join(dnsmap.ReverseZones(netip.MustParsePrefix(prefix)), " "); got != want {
			t.Errorf("%s: %s", prefix, got)
		}
	}
}
