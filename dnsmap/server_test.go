package dnsmap_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/nodetun/nodetun/dnsmap"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/routing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var pool = netip.MustParsePrefix("100.100.0.0/16")

// world is a server with a table behind it: this node (laptop), a peer with a
// petname (nas), and everybody else on demand.
type world struct {
	server *dnsmap.Server
	names  *dnsmap.Names
	table  *routing.Table
	addr   string
}

// start runs a server on a free port of 127.0.0.1 until the test ends.
func start(t testing.TB, change func(*dnsmap.Config)) *world {
	t.Helper()
	w := &world{names: newNames(t), table: routing.NewTable(selfID, pool, nil)}
	if _, err := w.table.Add(peerID); err != nil {
		t.Fatal(err)
	}
	if err := w.names.Add("nas", peerID); err != nil {
		t.Fatal(err)
	}
	cfg := dnsmap.Config{
		Listen:   []string{"127.0.0.1:0"},
		Names:    w.names,
		Lookup:   w.lookup,
		Reverse:  w.table.Lookup,
		Prefixes: []netip.Prefix{routing.Prefix6(), pool},
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if w.server, err = dnsmap.NewServer(cfg); err != nil {
		t.Fatal(err)
	}
	addr, err := w.server.Listen()
	if err != nil {
		t.Fatal(err)
	}
	w.addr = addr.String()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := w.server.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return w
}

func (w *world) lookup(id identity.NodeID, create bool) (v6, v4 netip.Addr, ok bool) {
	if !create {
		e, _ := w.table.Entry(id)
		return e.V6, e.V4, true
	}
	e, err := w.table.AddOnDemand(id, time.Now())
	return e.V6, e.V4, err == nil
}

// ask sends one question by UDP.
func (w *world) ask(t testing.TB, name string, qtype uint16) *dns.Msg {
	t.Helper()
	return exchange(t, "udp", w.addr, new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype))
}

func exchange(t testing.TB, network, addr string, m *dns.Msg) *dns.Msg {
	t.Helper()
	client := dns.Client{Net: network, Timeout: time.Minute}
	r, _, err := client.Exchange(m, addr)
	if err != nil {
		t.Fatalf("%s: %v", m.Question[0].String(), err)
	}
	return r
}

// answers shows the data of the answer section.
func answers(m *dns.Msg) string {
	var list []string
	for _, rr := range m.Answer {
		list = append(list, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	return strings.Join(list, " ")
}

func TestAnswers(t *testing.T) {
	w := start(t, nil)
	self, nas := w.table.Self(), mustEntry(t, w, peerID)
	other6 := routing.OverlayV6(otherID).String()
	reverse4, _ := dns.ReverseAddr(nas.V4.String())
	reverse6, _ := dns.ReverseAddr(nas.V6.String())
	reverseSelf, _ := dns.ReverseAddr(self.V6.String())
	unknown6, _ := dns.ReverseAddr("fd6e:6f64:6574::1")
	const zone6 = "4.7.5.6.4.6.f.6.e.6.d.f.ip6.arpa"
	for _, tc := range []struct {
		name, ask string
		qtype     uint16
		rcode     int
		want      string // the answer
		negative  bool   // SOA in the authority section
	}{
		{"peer AAAA", "nas.node.internal", dns.TypeAAAA, dns.RcodeSuccess, nas.V6.String(), false},
		{"peer A", "nas.node.internal", dns.TypeA, dns.RcodeSuccess, nas.V4.String(), false},
		{"peer any", "nas.node.internal", dns.TypeANY, dns.RcodeSuccess, nas.V6.String() + " " + nas.V4.String(), false},
		{"peer by id", peerID.String() + ".node.internal", dns.TypeAAAA, dns.RcodeSuccess, nas.V6.String(), false},
		{"peer MX", "nas.node.internal", dns.TypeMX, dns.RcodeSuccess, "", true},
		{"peer HTTPS", "nas.node.internal", dns.TypeHTTPS, dns.RcodeSuccess, "", true},
		{"self", "laptop.node.internal", dns.TypeAAAA, dns.RcodeSuccess, self.V6.String(), false},
		{"self by id", selfID.String() + ".node.internal", dns.TypeA, dns.RcodeSuccess, self.V4.String(), false},
		{"stranger", otherID.String() + ".node.internal", dns.TypeAAAA, dns.RcodeSuccess, other6, false},
		{"stranger TXT", otherID.String() + ".node.internal", dns.TypeTXT, dns.RcodeSuccess, "", true},
		{"upper case", strings.ToUpper(otherID.String()) + ".NODE.INTERNAL", dns.TypeAAAA, dns.RcodeSuccess, other6, false},
		{"no such name", "nobody.node.internal", dns.TypeA, dns.RcodeNameError, "", true},
		{"no such id", strings.Repeat("a", 51) + "b.node.internal", dns.TypeA, dns.RcodeNameError, "", true},
		{"below a node", "x.nas.node.internal", dns.TypeA, dns.RcodeNameError, "", true},
		{"escaped dot", `nas\.node.internal`, dns.TypeA, dns.RcodeRefused, "", false},
		{"zone SOA", "node.internal", dns.TypeSOA, dns.RcodeSuccess, "ns.node.internal. hostmaster.node.internal. 1 3600 600 86400 5", false},
		{"zone NS", "node.internal", dns.TypeNS, dns.RcodeSuccess, "ns.node.internal.", false},
		{"zone A", "node.internal", dns.TypeA, dns.RcodeSuccess, "", true},
		{"name server", "ns.node.internal", dns.TypeA, dns.RcodeSuccess, "127.0.0.1", false},
		{"transfer", "node.internal", dns.TypeIXFR, dns.RcodeRefused, "", false},
		{"outside", "example.com", dns.TypeA, dns.RcodeRefused, "", false},
		{"like our zone", "xnode.internal", dns.TypeA, dns.RcodeRefused, "", false},
		{"root", ".", dns.TypeNS, dns.RcodeRefused, "", false},
		{"PTR IPv4", reverse4, dns.TypePTR, dns.RcodeSuccess, "nas.node.internal.", false},
		{"PTR IPv6", reverse6, dns.TypePTR, dns.RcodeSuccess, "nas.node.internal.", false},
		{"PTR upper case", strings.ToUpper(reverse6), dns.TypePTR, dns.RcodeSuccess, "nas.node.internal.", false},
		{"PTR self", reverseSelf, dns.TypePTR, dns.RcodeSuccess, "laptop.node.internal.", false},
		{"PTR other type", reverse4, dns.TypeA, dns.RcodeSuccess, "", true},
		{"PTR unknown", unknown6, dns.TypePTR, dns.RcodeNameError, "", true},
		{"PTR half an address", "1." + zone6, dns.TypePTR, dns.RcodeSuccess, "", true},
		{"PTR no address", "xx." + zone6, dns.TypePTR, dns.RcodeNameError, "", true},
		{"PTR too long", "1." + unknown6, dns.TypePTR, dns.RcodeNameError, "", true},
		{"PTR no number", "256.1.100.100.in-addr.arpa", dns.TypePTR, dns.RcodeNameError, "", true},
		{"PTR zeros in front", "01.1.100.100.in-addr.arpa", dns.TypePTR, dns.RcodeNameError, "", true},
		{"reverse zone", zone6, dns.TypeNS, dns.RcodeSuccess, "ns.node.internal.", false},
		{"PTR outside", "1.1.101.100.in-addr.arpa", dns.TypePTR, dns.RcodeRefused, "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := w.ask(t, tc.ask, tc.qtype)
			if r.Rcode != tc.rcode || answers(r) != tc.want {
				t.Fatalf("rcode %s, answer %q; want %s, %q", dns.RcodeToString[r.Rcode], answers(r), dns.RcodeToString[tc.rcode], tc.want)
			}
			if tc.rcode != dns.RcodeRefused && !r.Authoritative {
				t.Error("not authoritative")
			}
			soa := len(r.Ns) == 1 && r.Ns[0].Header().Rrtype == dns.TypeSOA
			if soa != tc.negative || soa && r.Ns[0].Header().Ttl > 5 {
				t.Errorf("authority %v", r.Ns)
			}
			for _, rr := range r.Answer {
				if rr.Header().Ttl > 60 || rr.Header().Name != dns.Fqdn(tc.ask) {
					t.Errorf("record %s", rr)
				}
			}
		})
	}
}

func mustEntry(t testing.TB, w *world, id identity.NodeID) routing.Entry {
	t.Helper()
	e, ok := w.table.Entry(id)
	if !ok {
		t.Fatal("no entry")
	}
	return e
}

func TestMappingIsInstalledOnlyWhenAddressesAreAsked(t *testing.T) {
	w := start(t, nil)
	name := otherID.String() + ".node.internal"
	w.ask(t, name, dns.TypeMX)
	if _, ok := w.table.Entry(otherID); ok {
		t.Error("MX installed the mapping")
	}
	r := w.ask(t, name, dns.TypeA)
	if id, ok := w.table.Lookup(netip.MustParseAddr(answers(r))); !ok || id != otherID {
		t.Errorf("%q is %s, %v", answers(r), id, ok)
	}
}

// Resolvers that mix the case of a question at random (0x20) drop an answer in
// another case.
func TestMixedCaseIsEchoed(t *testing.T) {
	w := start(t, nil)
	const name = "nAs.NoDe.InTeRnAl."
	for _, network := range []string{"udp", "tcp"} {
		r := exchange(t, network, w.addr, new(dns.Msg).SetQuestion(name, dns.TypeAAAA))
		if r.Question[0].Name != name || len(r.Answer) != 1 || r.Answer[0].Header().Name != name {
			t.Errorf("%s: %v", network, r)
		}
	}
}

func TestWithoutOneFamily(t *testing.T) {
	w := start(t, func(c *dnsmap.Config) {
		c.Lookup = func(identity.NodeID, bool) (v6, v4 netip.Addr, ok bool) {
			return routing.OverlayV6(peerID), netip.Addr{}, true
		}
	})
	if r := w.ask(t, "nas.node.internal", dns.TypeA); r.Rcode != dns.RcodeSuccess || len(r.Answer) != 0 || len(r.Ns) != 1 {
		t.Errorf("A without IPv4: %v", r)
	}
	if r := w.ask(t, "nas.node.internal", dns.TypeAAAA); len(r.Answer) != 1 {
		t.Errorf("AAAA: %v", r)
	}
}

func TestLookupRefuses(t *testing.T) {
	w := start(t, func(c *dnsmap.Config) {
		c.Lookup = func(identity.NodeID, bool) (v6, v4 netip.Addr, ok bool) { return }
		c.Reverse = nil
	})
	if r := w.ask(t, "nas.node.internal", dns.TypeA); r.Rcode != dns.RcodeNameError {
		t.Errorf("%v", r)
	}
	if r := w.ask(t, "1.1.100.100.in-addr.arpa", dns.TypePTR); r.Rcode != dns.RcodeNameError {
		t.Errorf("%v", r)
	}
}

func TestEDNSAndOddMessages(t *testing.T) {
	w := start(t, nil)
	m := new(dns.Msg).SetQuestion("nas.node.internal.", dns.TypeA)
	m.SetEdns0(4096, true)
	if r := exchange(t, "udp", w.addr, m); r.IsEdns0() == nil || r.IsEdns0().UDPSize() != 1232 {
		t.Errorf("OPT missing: %v", r)
	}
	m.IsEdns0().SetVersion(1)
	if r := exchange(t, "udp", w.addr, m); r.Rcode != dns.RcodeBadVers || len(r.Answer) != 0 {
		t.Errorf("version 1: %v", r)
	}
	m = new(dns.Msg).SetQuestion("nas.node.internal.", dns.TypeA)
	m.Opcode = dns.OpcodeNotify
	if r := exchange(t, "udp", w.addr, m); r.Rcode != dns.RcodeNotImplemented {
		t.Errorf("notify: %v", r)
	}
	m = new(dns.Msg).SetQuestion("version.bind.", dns.TypeTXT)
	m.Question[0].Qclass = dns.ClassCHAOS
	if r := exchange(t, "udp", w.addr, m); r.Rcode != dns.RcodeRefused {
		t.Errorf("chaos: %v", r)
	}
}

// S20: a machine of the LAN, or a peer through the overlay, asks the server.
func TestS20OnlyOwnAddressesAreAnswered(t *testing.T) {
	var local atomic.Bool
	w := start(t, func(c *dnsmap.Config) { c.Local = func(netip.Addr) bool { return local.Load() } })
	m := new(dns.Msg).SetQuestion("nas.node.internal.", dns.TypeA)
	for _, network := range []string{"udp", "tcp"} {
		client := dns.Client{Net: network, Timeout: 300 * time.Millisecond}
		if r, _, err := client.Exchange(m, w.addr); err == nil {
			t.Errorf("%s: a stranger got %v", network, r)
		}
	}
	local.Store(true)
	exchange(t, "udp", w.addr, m)
	exchange(t, "tcp", w.addr, m)
}

func TestOwnAddressesOfThisHost(t *testing.T) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !dnsmap.IsLocal(p.Addr()) {
			t.Errorf("%s is not known as our own", p.Addr())
		}
	}
	for _, s := range []string{"203.0.113.77", "fd6e:6f64:6574::77", "100.100.3.4"} {
		if dnsmap.IsLocal(netip.MustParseAddr(s)) {
			t.Errorf("%s is taken for our own", s)
		}
	}
}

// S20: a local program in a loop. At most 2000 questions in a second reach the
// table.
func TestS20Rate(t *testing.T) {
	var asked atomic.Int64
	w := start(t, func(c *dnsmap.Config) {
		c.Lookup = func(identity.NodeID, bool) (v6, v4 netip.Addr, ok bool) {
			asked.Add(1)
			return routing.OverlayV6(peerID), netip.Addr{}, true
		}
	})
	conn, err := net.Dial("udp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	packet, err := new(dns.Msg).SetQuestion("nas.node.internal.", dns.TypeAAAA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	for range 20_000 {
		conn.Write(packet)
	}
	until(t, 10*time.Second, "questions are answered", func() bool { return asked.Load() >= 100 })
	if n, limit := asked.Load(), 200+1800*time.Since(begin).Seconds(); float64(n) > limit {
		t.Errorf("%d questions answered, limit %.0f", n, limit)
	}
}

// 100 000 names asked leave no more behind than the 1024 nodes of S19.
func TestManyNamesInBoundedMemory(t *testing.T) {
	w := start(t, nil)
	before := heap()
	ids := validIDs(t, 200)
	req := new(dns.Msg)
	for n := range 100_000 {
		// Every second question is for a NodeID, the others for no name at all.
		name := fmt.Sprintf("%s.node.internal.", ids[n%len(ids)])
		if n%2 == 1 {
			name = fmt.Sprintf("name-%d.node.internal.", n)
		}
		w.server.Reply(t.Context(), req.SetQuestion(name, dns.TypeAAAA))
	}
	if grown := int64(heap()) - int64(before); grown > 4<<20 {
		t.Errorf("%d bytes more in use", grown)
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func validIDs(t *testing.T, n int) []identity.NodeID {
	t.Helper()
	ids := make([]identity.NodeID, n)
	for i := range ids {
		ids[i] = identity.GenerateSecretKey().NodeID()
	}
	return ids
}

func TestManyTCPConnections(t *testing.T) {
	w := start(t, nil)
	var idle []net.Conn
	defer func() {
		for _, c := range idle {
			c.Close()
		}
	}()
	for range 64 {
		c, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		idle = append(idle, c)
	}
	m := new(dns.Msg).SetQuestion("nas.node.internal.", dns.TypeA)
	client := dns.Client{Net: "tcp", Timeout: time.Second}
	if _, _, err := client.Exchange(m, w.addr); err == nil {
		t.Error("the 65th connection was served")
	}
	exchange(t, "udp", w.addr, m)
	for _, c := range idle {
		c.Close()
	}
	for deadline := time.Now().Add(time.Minute); ; {
		if _, _, err := client.Exchange(m, w.addr); err == nil {
			return
		} else if time.Now().After(deadline) {
			t.Fatalf("not served after the others closed: %v", err)
		}
	}
}

func TestListenTakesTheNextAddress(t *testing.T) {
	first, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	w := start(t, func(c *dnsmap.Config) {
		c.Listen = []string{"192.0.2.77:53", first.LocalAddr().String(), "127.0.0.2:0"}
	})
	if got := w.server.Addr(); got.Addr() != netip.MustParseAddr("127.0.0.2") || got.Port() == 0 {
		t.Errorf("listening on %s", got)
	}
	exchange(t, "tcp", w.addr, new(dns.Msg).SetQuestion("nas.node.internal.", dns.TypeA))
}

func TestListenFails(t *testing.T) {
	cfg := dnsmap.Config{Names: newNames(t), Lookup: (&world{}).lookup, Listen: []string{"192.0.2.77:53"}}
	s, err := dnsmap.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "192.0.2.77") {
		t.Errorf("error %v", err)
	}
	cfg.Listen = []string{"localhost"}
	if _, err := dnsmap.NewServer(cfg); err == nil {
		t.Error("a host name was accepted")
	}
	if _, err := dnsmap.NewServer(dnsmap.Config{}); err == nil {
		t.Error("an empty configuration was accepted")
	}
}

func TestCloseWithoutRun(t *testing.T) {
	s, err := dnsmap.NewServer(dnsmap.Config{Names: newNames(t), Lookup: (&world{}).lookup, Listen: []string{"127.0.0.1:0"}})
	if err != nil {
		t.Fatal(err)
	}
	addr, err := s.Listen()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Error(err)
	}
	again, err := net.ListenPacket("udp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

func BenchmarkReply(b *testing.B) {
	w := start(b, nil)
	req := new(dns.Msg).SetQuestion("nas.node.internal.", dns.TypeAAAA)
	b.ReportAllocs()
	for b.Loop() {
		w.server.Reply(b.Context(), req)
	}
}
