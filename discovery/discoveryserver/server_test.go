package discoveryserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/nodetun/nodetun/discovery"
	"github.com/nodetun/nodetun/discovery/dht"
	"github.com/nodetun/nodetun/discovery/dht/dhttest"
	discoverydns "github.com/nodetun/nodetun/discovery/dns"
	"github.com/nodetun/nodetun/discovery/pkarr"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/webserver"
	"github.com/nodetun/nodetun/internal/webserver/webservertest"
)

// run serves on loopback until the test ends; listening is called before it does.
func run(t *testing.T, cfg Config, listening ...func(*Server)) *Server {
	t.Helper()
	cfg.Addr, cfg.DNSAddr = "127.0.0.1:0", "127.0.0.1:0"
	s := New(cfg)
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	for _, f := range listening {
		f(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func clientOf(s *Server) pkarr.Client {
	return pkarr.Client{URL: "http://" + s.Addr().String() + "/pkarr"}
}

// ask asks by DNS.
func ask(t *testing.T, s *Server, network, name string, kind uint16) *dns.Msg {
	t.Helper()
	c := dns.Client{Net: network, Timeout: 10 * time.Second}
	m := new(dns.Msg).SetQuestion(name, kind)
	res, _, err := c.Exchange(m, s.DNSAddr().String())
	if err != nil {
		t.Fatalf("%s %s: %v", network, name, err)
	}
	return res
}

// What a node publishes is found by HTTP and by DNS, with the parts of this module and
// with those of others.
func TestPublishAndResolve(t *testing.T) {
	s := run(t, Config{Origins: []string{"discovery.test", "."}})
	n := newNode(t)
	publisher := pkarr.NewPublisher(clientOf(s), pkarr.Republish, n.signer, nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- publisher.Run(ctx) }()
	relay, err := identity.ParseRelayURL("https://relay.example")
	if err != nil {
		t.Fatal(err)
	}
	publisher.Publish(identity.NodeAddr{ID: n.id, Relay: relay, Direct: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.7:4433")}})
	deadline := time.Now().Add(10 * time.Second)
	var found []discovery.Item
	for len(found) == 0 && time.Now().Before(deadline) {
		err = pkarr.Resolver{Client: clientOf(s)}.Resolve(ctx, n.id, func(i discovery.Item) { found = append(found, i) })
	}
	if len(found) != 1 || found[0].Addr.Relay != relay || len(found[0].Addr.Direct) != 1 {
		t.Fatalf("%+v, %v", found, err)
	}
	cancel()
	<-done
	byDNS := &discoverydns.Resolver{Origin: "discovery.test", Client: discoverydns.Client{Servers: func() []netip.AddrPort {
		return []netip.AddrPort{netip.MustParseAddrPort(s.DNSAddr().String())}
	}}}
	found = nil
	if err := byDNS.Resolve(t.Context(), n.id, func(i discovery.Item) { found = append(found, i) }); err != nil || len(found) != 1 || found[0].Addr.Relay != relay || len(found[0].Addr.Direct) != 1 {
		t.Errorf("by DNS: %+v, %v", found, err)
	}
	for _, name := range []string{"_iroh." + n.id.Z32() + ".discovery.test.", "_IROH." + strings.ToUpper(n.id.Z32()) + ".Discovery.TEST.", "_iroh." + n.id.Z32() + "."} {
		for _, network := range []string{"udp", "tcp"} {
			res := ask(t, s, network, name, dns.TypeTXT)
			if !res.Authoritative || res.Rcode != dns.RcodeSuccess || len(res.Answer) != 2 {
				t.Fatalf("%s %s:\n%v", network, name, res)
			}
			for i, want := range []string{"relay=https://relay.example./", "addr=192.0.2.7:4433"} {
				txt := res.Answer[i].(*dns.TXT)
				if txt.Hdr.Name != name || txt.Hdr.Ttl != 30 || strings.Join(txt.Txt, "") != want {
					t.Errorf("%v", txt)
				}
			}
		}
	}
}

func TestDNS(t *testing.T) {
	s := run(t, Config{Origins: []string{"discovery.test"}, NameServers: []string{"ns1.example"}, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("2001:db8::53")}})
	n := newNode(t)
	if err := clientOf(s).Put(t.Context(), n.at(t, time.Now(), 1)); err != nil {
		t.Fatal(err)
	}
	node := n.id.Z32() + ".discovery.test."
	for _, tc := range []struct {
		name         string
		question     string
		kind         uint16
		rcode        int
		answers      int
		authority    bool // a SOA says for how long there is nothing
		unauthorised bool
	}{
		{name: "the record", question: "_iroh." + node, kind: dns.TypeTXT, answers: 1},
		{name: "another type: no data", question: "_iroh." + node, kind: dns.TypeA, authority: true},
		{name: "above the record: no data", question: node, kind: dns.TypeTXT, authority: true},
		{name: "beside the record", question: "x." + node, kind: dns.TypeTXT, rcode: dns.RcodeNameError, authority: true},
		{name: "a node that is not there", question: "_iroh." + newNode(t).id.Z32() + ".discovery.test.", kind: dns.TypeTXT, rcode: dns.RcodeNameError, authority: true},
		{name: "no node", question: "www.discovery.test.", kind: dns.TypeA, rcode: dns.RcodeNameError, authority: true},
		{name: "SOA", question: "discovery.test.", kind: dns.TypeSOA, answers: 1},
		{name: "NS", question: "discovery.test.", kind: dns.TypeNS, answers: 1},
		{name: "A", question: "Discovery.test.", kind: dns.TypeA, answers: 1},
		{name: "AAAA", question: "discovery.test.", kind: dns.TypeAAAA, answers: 1},
		{name: "no MX", question: "discovery.test.", kind: dns.TypeMX, authority: true},
		{name: "another zone", question: "example.com.", kind: dns.TypeA, rcode: dns.RcodeRefused, unauthorised: true},
		{name: "ends alike", question: "x" + "discovery.test.", kind: dns.TypeA, rcode: dns.RcodeRefused, unauthorised: true},
		{name: "transfer", question: "discovery.test.", kind: dns.TypeAXFR, rcode: dns.RcodeRefused, unauthorised: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			res := ask(t, s, "udp", tc.question, tc.kind)
			soa := len(res.Ns) == 1 && res.Ns[0].Header().Rrtype == dns.TypeSOA
			if res.Rcode != tc.rcode || len(res.Answer) != tc.answers || soa != tc.authority || res.Authoritative == tc.unauthorised {
				t.Errorf("%v", res)
			}
		})
	}
	chaos := new(dns.Msg).SetQuestion("_iroh."+node, dns.TypeTXT)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	if res := s.answer(t.Context(), chaos); res.Rcode != dns.RcodeRefused {
		t.Errorf("class CH: %v", res)
	}
	edns := new(dns.Msg).SetQuestion("_iroh."+node, dns.TypeTXT).SetEdns0(4096, true)
	if res := s.answer(t.Context(), edns); res.IsEdns0() == nil || res.IsEdns0().UDPSize() != maxUDP {
		t.Errorf("EDNS: %v", res)
	}
	edns.IsEdns0().SetVersion(1)
	if res := s.answer(t.Context(), edns); res.Rcode != dns.RcodeBadVers || len(res.Answer) > 0 {
		t.Errorf("EDNS 1: %v", res)
	}
	notify := new(dns.Msg).SetNotify("discovery.test.")
	if res := s.answer(t.Context(), notify); res.Rcode != dns.RcodeNotImplemented {
		t.Errorf("NOTIFY: %v", res)
	}
}

// A large packet is cut by UDP, to what the client takes and never above 1232 bytes, and
// is whole by TCP.
func TestDNSTruncates(t *testing.T) {
	s := run(t, Config{})
	n := newNode(t)
	addr := identity.NodeAddr{ID: n.id}
	for i := range 16 {
		addr.Direct = append(addr.Direct, netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, byte(i)}), 65000))
	}
	p, err := n.signer.Sign(time.Now(), addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := clientOf(s).Put(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	name := "_iroh." + n.id.Z32() + "."
	for _, taken := range []uint16{0, 900, 4096} {
		m := new(dns.Msg).SetQuestion(name, dns.TypeTXT)
		if taken > 0 {
			m.SetEdns0(taken, false)
		}
		sent, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("udp", s.DNSAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := conn.Write(sent); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 4096)
		k, err := conn.Read(buf)
		conn.Close()
		res := new(dns.Msg)
		if err != nil || res.Unpack(buf[:k]) != nil {
			t.Fatal(err)
		}
		if want := min(max(int(taken), dns.MinMsgSize), maxUDP); k > want || res.Truncated != (taken < 1000) {
			t.Errorf("%d bytes to who takes %d, truncated %v", k, taken, res.Truncated)
		}
	}
	if res := ask(t, s, "tcp", name, dns.TypeTXT); res.Truncated || len(res.Answer) != len(p.Records()) {
		t.Errorf("%d answers by TCP, truncated %v", len(res.Answer), res.Truncated)
	}
}

// Records of a packet that claim a place elsewhere are not served.
func TestDNSServesOwnNamesOnly(t *testing.T) {
	key := identity.GenerateSecretKey()
	other := newNode(t)
	z32 := key.NodeID().Z32()
	rr := func(text string) dns.RR {
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		return rr
	}
	m := dns.Msg{Answer: []dns.RR{
		rr("_iroh." + other.id.Z32() + ". 30 IN TXT \"addr=192.0.2.66:1\""), rr("www.example.com. 30 IN A 192.0.2.66"),
		rr("x" + z32 + ". 30 IN A 192.0.2.66"), rr(z32 + ". 30 IN NS evil.example."), rr(z32 + ". 30 IN A 192.0.2.1"), rr("www." + z32 + ". 99999 IN CNAME " + z32 + "."),
	}}
	m.Response = true
	message, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	now := uint64(time.Now().UnixMicro())
	payload := key.SignPkarr(now, message)
	for i := range 8 {
		payload = append(payload, byte(now>>(8*(7-i))))
	}
	s := run(t, Config{})
	p, err := pkarr.Parse(key.NodeID(), append(payload, message...))
	if err != nil {
		t.Fatal(err)
	}
	if err := clientOf(s).Put(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name    string
		kind    uint16
		answers int
	}{
		{"_iroh." + other.id.Z32() + ".", dns.TypeTXT, 0},
		{"www.example.com.", dns.TypeA, 0},
		{"x" + z32 + ".", dns.TypeA, 0},
		{z32 + ".", dns.TypeNS, 0},
		{z32 + ".", dns.TypeA, 1},
		{"www." + z32 + ".", dns.TypeA, 1},
	} {
		res := ask(t, s, "udp", tc.name, tc.kind)
		if len(res.Answer) != tc.answers || tc.answers > 0 && res.Answer[0].Header().Ttl > maxTTL {
			t.Errorf("%s: %v", tc.name, res)
		}
	}
}

func TestHTTP(t *testing.T) {
	s := run(t, Config{PutsPerSecond: -1})
	base := "http://" + s.Addr().String()
	n, other := newNode(t), newNode(t)
	now := time.Now()
	old, late := n.at(t, now, 1), n.at(t, now.Add(time.Second), 2)
	forged := bytes.Clone(late.Payload())
	forged[0] ^= 1
	path := "/pkarr/" + n.id.Z32()
	query := func() []byte {
		b, err := new(dns.Msg).SetQuestion("_iroh."+n.id.Z32()+".", dns.TypeTXT).Pack()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}()
	for _, tc := range []struct {
		name         string
		method, path string
		body         []byte
		status       int
		want         string // part of the body
	}{
		{"nothing yet", "GET", path, nil, 404, "no packet"},
		{"put", "PUT", path, late.Payload(), 204, ""},
		{"the same again", "PUT", path, late.Payload(), 204, ""},
		{"replayed", "PUT", path, old.Payload(), 409, "newer"},
		{"get", "GET", path, nil, 200, string(late.Payload())},
		{"forged", "PUT", path, forged, 400, "signature"},
		{"of another node", "PUT", "/pkarr/" + other.id.Z32(), late.Payload(), 400, "signature"},
		{"from the future", "PUT", path, n.at(t, now.Add(48*time.Hour), 3).Payload(), 400, "clock"},
		{"empty", "PUT", path, nil, 400, "not a pkarr packet"},
		{"oversize", "PUT", path, make([]byte, pkarr.MaxPayload+1), 413, "longer"},
		{"huge", "PUT", path, make([]byte, 1<<20), 413, "longer"},
		{"no node", "PUT", "/pkarr/abc", late.Payload(), 400, "z-base-32"},
		{"no node", "GET", "/pkarr/" + n.id.String(), nil, 400, "z-base-32"},
		{"another method", "DELETE", path, nil, 405, ""},
		{"health", "GET", "/healthcheck", nil, 200, "OK"},
		{"for people", "GET", "/", nil, 200, "where nodes are"},
		{"nothing there", "GET", "/x", nil, 404, ""},
		{"DNS over HTTPS", "POST", "/dns-query", query, 200, "addr=192.0.2.1:2"},
		{"DNS over HTTPS", "GET", "/dns-query?dns=" + base64.RawURLEncoding.EncodeToString(query), nil, 200, "addr=192.0.2.1:2"},
		{"no DNS", "POST", "/dns-query", []byte("x"), 400, "no DNS"},
		{"no DNS", "GET", "/dns-query?dns=%", nil, 400, "no DNS"},
		{"from a page", "OPTIONS", path, nil, 204, ""},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tc.method, base+tc.path, bytes.NewReader(tc.body))
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != tc.status || !strings.Contains(string(body), tc.want) || res.Header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s: %d %q, want %d %q", tc.name, res.StatusCode, body, tc.status, tc.want)
		}
	}
	if got := s.count.puts.bad.Load(); got != 7 {
		t.Errorf("%d bad packets counted", got)
	}
}

func TestPutLimit(t *testing.T) {
	s := New(Config{PutsPerSecond: 3})
	defer s.Close()
	put := func(from string) int {
		n := newNode(t)
		r := httptest.NewRequest("PUT", "/pkarr/"+n.id.Z32(), bytes.NewReader(n.at(t, time.Now(), 1).Payload()))
		r.RemoteAddr = from + ":999"
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		if w.Code == http.StatusTooManyRequests && w.Header().Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		return w.Code
	}
	passed := 0
	for range 20 {
		if put("192.0.2.9") == http.StatusNoContent {
			passed++
		}
	}
	if passed < 3 || passed > 6 {
		t.Errorf("%d passed", passed)
	}
	if put("198.51.100.1") != http.StatusNoContent {
		t.Error("another network is refused, too")
	}
}

// Behind a proxy that is trusted, and only there, clients are told apart by what it says.
func TestLimitBehindProxy(t *testing.T) {
	proxies, err := webserver.ParsePrefixes([]string{"192.0.2.0/24"})
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{PutsPerSecond: 1, TrustedProxies: proxies})
	defer s.Close()
	// Networks whose hashes meet share a bucket: a few of the twenty may.
	for proxy, want := range map[string]struct{ least, most int }{"192.0.2.9": {15, 20}, "198.51.100.9": {1, 2}} {
		passed := 0
		for i := range 20 {
			n := newNode(t)
			r := httptest.NewRequest("PUT", "/pkarr/"+n.id.Z32(), bytes.NewReader(n.at(t, time.Now(), 1).Payload()))
			r.RemoteAddr = proxy + ":999"
			r.Header.Set("X-Forwarded-For", fmt.Sprintf("203.0.%d.1", i))
			w := httptest.NewRecorder()
			s.Handler().ServeHTTP(w, r)
			if w.Code == http.StatusNoContent {
				passed++
			}
		}
		if passed < want.least || passed > want.most {
			t.Errorf("by %s %d passed, want %+v", proxy, passed, want)
		}
	}
}

// clientFor trusts an authority, and wants a server with the name.
func clientFor(authority *webservertest.Authority, host string) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: authority.Pool, ServerName: host}, ForceAttemptHTTP2: true}}
}

// With a certificate it is HTTPS, of version 2 too.
func TestTLS(t *testing.T) {
	const host = "discovery.example"
	authority := webservertest.NewAuthority(t)
	certFile, keyFile := authority.WritePair(t.TempDir(), host)
	s := run(t, Config{CertFile: certFile, KeyFile: keyFile})
	client := clientFor(authority, host)
	defer client.CloseIdleConnections()
	if !strings.HasPrefix(s.URL(), "https://127.0.0.1:") {
		t.Errorf("URL %s", s.URL())
	}
	n := newNode(t)
	c := pkarr.Client{URL: s.URL() + "/pkarr", HTTP: client}
	if err := c.Put(t.Context(), n.at(t, time.Now(), 1)); err != nil {
		t.Fatal(err)
	}
	res, err := client.Get(s.URL() + "/pkarr/" + n.id.Z32())
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK || res.ProtoMajor != 2 {
		t.Errorf("%s by %s", res.Status, res.Proto)
	}
	half := New(Config{Addr: "127.0.0.1:0", CertFile: certFile})
	defer half.Close()
	if err := half.Listen(); err == nil {
		t.Error("a certificate without its key")
	}
}

// failing is a store that is out of order.
type failing struct{ Store }

func (failing) Put(context.Context, pkarr.Packet) error { return errors.New("disk on fire") }
func (failing) Get(context.Context, identity.NodeID) (pkarr.Packet, error) {
	return pkarr.Packet{}, errors.New("disk on fire")
}

func TestStoreFails(t *testing.T) {
	s := run(t, Config{Store: failing{NewMemory()}})
	n := newNode(t)
	var busy *pkarr.BusyError
	if err := clientOf(s).Put(t.Context(), n.at(t, time.Now(), 1)); !errors.As(err, &busy) || busy.Pause != 5*time.Second {
		t.Errorf("put: %v", err)
	}
	if _, err := clientOf(s).Get(t.Context(), n.id); !errors.As(err, &busy) {
		t.Errorf("get: %v", err)
	}
	if res := ask(t, s, "udp", "_iroh."+n.id.Z32()+".", dns.TypeTXT); res.Rcode != dns.RcodeServerFailure {
		t.Errorf("%v", res)
	}
	if s.count.storeErrors.Load() != 3 {
		t.Errorf("%d errors counted", s.count.storeErrors.Load())
	}
}

// TestGarbage sends packets that are no DNS queries, of which none is answered by more
// bytes than it has, and none leaves memory behind.
func TestGarbage(t *testing.T) {
	s := run(t, Config{QueriesPerSecond: -1})
	conn, err := net.Dial("udp", s.DNSAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	random := mathrand.New(mathrand.NewPCG(1, 2))
	good, err := new(dns.Msg).SetQuestion("_iroh."+newNode(t).id.Z32()+".", dns.TypeTXT).Pack()
	if err != nil {
		t.Fatal(err)
	}
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for range 50_000 {
		b := bytes.Clone(good)
		for range 1 + random.IntN(20) {
			b[random.IntN(len(b))] = byte(random.Uint32())
		}
		b = append(b, make([]byte, random.IntN(400))...)[:1+random.IntN(len(b))]
		if _, err := conn.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	// It still answers.
	for tries := 0; ; tries++ {
		c := dns.Client{Timeout: time.Second}
		_, _, err := c.Exchange(new(dns.Msg).SetQuestion(".", dns.TypeSOA), s.DNSAddr().String())
		if err == nil {
			break
		}
		if tries == 20 {
			t.Fatal(err)
		}
	}
	if after := heap(); after > before+8<<20 {
		t.Errorf("the heap grew from %d to %d bytes", before, after)
	}
}

// A node that is not in the store is looked for elsewhere, for the DNS alone.
func TestFallback(t *testing.T) {
	nodes := dhttest.Start(t, dhttest.Loopback(20)...)
	client := dht.New(dht.Config{Bootstrap: dhttest.Bootstrap(nodes)})
	s := run(t, Config{Fallback: client})
	n := newNode(t)
	question := new(dns.Msg).SetQuestion("_iroh."+n.id.Z32()+".", dns.TypeTXT)
	ask := func() *dns.Msg {
		t.Helper()
		c := dns.Client{Timeout: 5 * time.Second}
		res, _, err := c.Exchange(question, s.DNSAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	if err := client.Put(t.Context(), n.at(t, time.Now(), 1)); err != nil {
		t.Fatal(err)
	}
	if res := ask(); res.Rcode != dns.RcodeSuccess || len(res.Answer) != 1 {
		t.Errorf("%v", res)
	}
	if _, err := clientOf(s).Get(t.Context(), n.id); !errors.Is(err, pkarr.ErrNotFound) {
		t.Errorf("by HTTP: %v", err)
	}
	// What is put here counts at once.
	if err := clientOf(s).Put(t.Context(), n.at(t, time.Now(), 2)); err != nil {
		t.Fatal(err)
	}
	if res := ask(); len(res.Answer) != 1 || !strings.Contains(res.Answer[0].String(), "192.0.2.1:2") {
		t.Errorf("%v", res)
	}
	// Nobody has another one, and those who would know are silent: that is said when it is
	// known, and until then the asker is to come again.
	for _, node := range nodes {
		node.Replace(func(map[string]any) map[string]any { return nil })
	}
	question = new(dns.Msg).SetQuestion("_iroh."+newNode(t).id.Z32()+".", dns.TypeTXT)
	if res := ask(); res.Rcode != dns.RcodeServerFailure {
		t.Errorf("%v", res)
	}
	for tries := 0; ask().Rcode != dns.RcodeNameError; tries++ {
		if tries == 20 {
			t.Fatal("never known")
		}
	}
}

// Who asks too fast by UDP gets nothing longer than the question, and can go on by TCP.
func TestQueryLimit(t *testing.T) {
	s := run(t, Config{QueriesPerSecond: 5})
	n := newNode(t)
	if err := clientOf(s).Put(t.Context(), n.at(t, time.Now(), 1)); err != nil {
		t.Fatal(err)
	}
	name := "_iroh." + n.id.Z32() + "."
	conn, err := net.Dial("udp", s.DNSAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	question, err := new(dns.Msg).SetQuestion(name, dns.TypeTXT).Pack()
	if err != nil {
		t.Fatal(err)
	}
	const sent = 200
	for range sent {
		if _, err := conn.Write(question); err != nil {
			t.Fatal(err)
		}
	}
	var whole, cut int
	buf := make([]byte, 2000)
	for {
		_ = conn.SetReadDeadline(time.Now().Add(time.Second))
		k, err := conn.Read(buf)
		if err != nil {
			break
		}
		if k > len(question) {
			whole++
		} else {
			cut++
		}
	}
	if whole < 5 || whole > 20 || cut == 0 || cut > sent/2 {
		t.Errorf("%d whole answers, %d cut ones", whole, cut)
	}
	if res := ask(t, s, "tcp", name, dns.TypeTXT); len(res.Answer) != 1 {
		t.Errorf("by TCP: %v", res)
	}
	// That has its bound too, and what is asked by HTTP counts with it.
	refused := 0
	for range 30 {
		if ask(t, s, "tcp", name, dns.TypeTXT).Rcode == dns.RcodeRefused {
			refused++
		}
	}
	if refused < 10 {
		t.Errorf("%d of 30 refused by TCP", refused)
	}
	busy := 0
	for range 30 {
		if _, err := clientOf(s).Get(t.Context(), n.id); errors.As(err, new(*pkarr.BusyError)) {
			busy++
		}
	}
	if busy < 10 {
		t.Errorf("%d of 30 refused by HTTP", busy)
	}
}

// A server that gets its certificate by ACME serves packets and DNS with it.
func TestACME(t *testing.T) {
	const host = "discovery.example"
	authority := webservertest.StartACME(t, host)
	ready := make(chan struct{})
	s := run(t, Config{
		ACME:   &webserver.ACME{Hosts: []string{host}, CacheDir: t.TempDir(), DirectoryURL: authority.Directory()},
		Logger: slog.New(slog.NewTextHandler(&webservertest.Until{Text: "certificate ready", Done: ready}, nil)),
	}, func(s *Server) { authority.Target = func() string { return s.Addr().String() } })
	<-ready
	client := pkarr.Client{URL: s.URL() + "/pkarr", HTTP: clientFor(authority.Authority, host)}
	defer client.HTTP.CloseIdleConnections()
	n := newNode(t)
	if err := client.Put(t.Context(), n.at(t, time.Now(), 1)); err != nil {
		t.Fatal(err)
	}
	if p, err := client.Get(t.Context(), n.id); err != nil || p.Addr().Direct[0].Port() != 1 {
		t.Errorf("%v, %v", p, err)
	}
}

// One network holds so many connections.
func TestConnsLimit(t *testing.T) {
	s := run(t, Config{ConnsPerPrefix: 3})
	for _, at := range []net.Addr{s.Addr(), s.DNSAddr()} {
		open := 0
		for range 10 {
			conn, err := net.Dial("tcp", at.String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			var ne net.Error
			if _, err := conn.Read(make([]byte, 1)); errors.As(err, &ne) && ne.Timeout() {
				open++
			}
		}
		if open != 3 {
			t.Errorf("%v: %d are open", at, open)
		}
	}
	if n := s.count.connsLimited.Load(); n != 14 {
		t.Errorf("%d counted", n)
	}
}

// DNS in JSON, as iroh's server has it.
func TestQueryJSON(t *testing.T) {
	s := run(t, Config{Origins: []string{"discovery.test"}})
	n := newNode(t)
	if err := clientOf(s).Put(t.Context(), n.at(t, time.Now(), 2)); err != nil {
		t.Fatal(err)
	}
	name := "_iroh." + n.id.Z32() + ".discovery.test"
	for _, tc := range []struct {
		query, accept string
		status        int
		want          string
	}{
		{"?type=TXT&name=" + name, "application/dns-json", 200, `{"Status":0,"TC":false,"RD":true,"RA":false,"AD":false,"CD":false,"Question":[{"name":"` + name + `.","type":16}],"Answer":[{"name":"` + name + `.","type":16,"TTL":30,"data":"addr=192.0.2.1:2"}]}`},
		{"?type=16&name=" + name, "application/x-javascript", 200, `"data":"addr=192.0.2.1:2"`},
		{"?type=txt&name=" + name, "*/*", 200, `"data":"addr=192.0.2.1:2"`},
		{"?name=" + name, "application/dns-json", 200, `"type":1}]}`}, // A: there is none
		{"?type=TXT&name=x." + name, "application/dns-json", 200, `"Status":3`},
		{"?type=NOPE&name=" + name, "application/dns-json", 400, "no type"},
		{"?type=TXT", "application/dns-json", 400, "no name"},
		{"?type=TXT&name=" + name, "text/html", 406, "application/dns-json"},
		{"?type=TXT&name=" + name, "application/dns-message", 400, "no DNS query"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL()+"/dns-query"+tc.query, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", tc.accept)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || res.StatusCode != tc.status || !strings.Contains(string(body), tc.want) {
			t.Errorf("%s as %s: %d %s, %v", tc.query, tc.accept, res.StatusCode, body, err)
		}
	}
}

func TestListenErrorIsOneLine(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	s := New(Config{Addr: taken.Addr().String()})
	if err := s.Listen(); err == nil || !strings.Contains(err.Error(), "discovery cannot listen on 127.0.0.1:") || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("%v", err)
	}
}
