package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/nodetun/nodetun/discovery"
	"github.com/nodetun/nodetun/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs a DNS server, by UDP and TCP, until the test ends.
func serve(t *testing.T, answer func(w dns.ResponseWriter, req *dns.Msg)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{Listener: l}, {PacketConn: pc}} {
		s.Handler = dns.HandlerFunc(answer)
		started, done := make(chan struct{}), make(chan error, 1)
		s.NotifyStartedFunc = func() { close(started) }
		go func() { done <- s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() {
			_ = s.Shutdown()
			<-done
		})
	}
	return netip.MustParseAddrPort(l.Addr().String())
}

// reply answers with records.
func reply(t *testing.T, w dns.ResponseWriter, req *dns.Msg, rcode int, records ...string) {
	res := new(dns.Msg).SetReply(req)
	res.Rcode = rcode
	for _, text := range records {
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Error(err)
			return
		}
		res.Answer = append(res.Answer, rr)
	}
	if w.LocalAddr().Network() == "udp" {
		res.Truncate(dns.MinMsgSize)
	}
	_ = w.WriteMsg(res)
}

func client(servers ...netip.AddrPort) Client {
	return Client{Servers: func() []netip.AddrPort { return servers }}
}

func testID(t *testing.T) identity.NodeID {
	t.Helper()
	id, err := identity.ParseNodeID("df7wwi7bnsctfrvlza4pvtk6u6e34ddwwkjagnadtp5iwpjwrvqq")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestTXT(t *testing.T) {
	var long []string
	for i := range 40 {
		long = append(long, fmt.Sprintf(`n.test. 30 IN TXT "addr=192.0.2.%d:1"`, i))
	}
	for _, tc := range []struct {
		name    string
		rcode   int
		records []string
		want    []string
		count   int // in its place
		err     error
	}{
		{name: "one", records: []string{`N.test. 30 IN TXT "a=b"`}, want: []string{"a=b"}},
		{name: "in pieces", records: []string{`n.test. 30 IN TXT "relay=https://" "relay.example"`}, want: []string{"relay=https://relay.example"}},
		{name: "too long for UDP", records: long, count: 40},
		{name: "of another name (S27)", records: []string{`other.test. 30 IN TXT "a=b"`}, err: ErrNotFound},
		{name: "where a CNAME leads", records: []string{`n.test. 30 IN CNAME other.test.`, `other.test. 30 IN TXT "a=b"`}, err: ErrNotFound},
		{name: "another type", records: []string{`n.test. 30 IN A 192.0.2.1`}, err: ErrNotFound},
		{name: "nothing", err: ErrNotFound},
		{name: "no such name", rcode: dns.RcodeNameError, err: ErrNotFound},
		{name: "refused", rcode: dns.RcodeRefused, err: ErrBadAnswer},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := client(serve(t, func(w dns.ResponseWriter, req *dns.Msg) { reply(t, w, req, tc.rcode, tc.records...) }))
			got, err := c.TXT(t.Context(), "n.test")
			if !errors.Is(err, tc.err) {
				t.Fatalf("%v, want %v", err, tc.err)
			}
			if tc.count > 0 && len(got) != tc.count || tc.count == 0 && !slices.Equal(got, tc.want) {
				t.Errorf("%q", got)
			}
		})
	}
}

// A server that is silent, or out of order, is not waited for.
func TestNextServer(t *testing.T) {
	var asked atomic.Int64
	silent := serve(t, func(dns.ResponseWriter, *dns.Msg) { asked.Add(1) })
	broken := serve(t, func(w dns.ResponseWriter, req *dns.Msg) { reply(t, w, req, dns.RcodeServerFailure) })
	good := serve(t, func(w dns.ResponseWriter, req *dns.Msg) { reply(t, w, req, 0, `n.test. 30 IN TXT "a=b"`) })
	for _, servers := range [][]netip.AddrPort{{silent, good}, {broken, good}, {broken, silent, good}, {good}} {
		c := client(servers...)
		if got, err := c.TXT(t.Context(), "n.test"); err != nil || len(got) != 1 {
			t.Errorf("%v: %q, %v", servers, got, err)
		}
	}
	if asked.Load() == 0 {
		t.Error("the first server was not asked first")
	}
	// None answers: over with the context, with nothing left running (goleak).
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	c := client(silent)
	if _, err := c.TXT(ctx, "n.test"); err == nil {
		t.Error("an answer of nobody")
	}
	if _, err := (&Client{Servers: func() []netip.AddrPort { return nil }}).TXT(t.Context(), "n.test"); err == nil {
		t.Error("no error without servers")
	}
}

// Package net finds addresses by the same servers.
func TestNetResolver(t *testing.T) {
	silent := serve(t, func(dns.ResponseWriter, *dns.Msg) {})
	broken := serve(t, func(w dns.ResponseWriter, req *dns.Msg) { reply(t, w, req, dns.RcodeRefused) })
	var byTCP atomic.Int64
	good := serve(t, func(w dns.ResponseWriter, req *dns.Msg) {
		if w.LocalAddr().Network() == "tcp" {
			byTCP.Add(1)
		}
		name, kind := req.Question[0].Name, req.Question[0].Qtype
		var list []string
		switch {
		case name == "gone.test.":
			reply(t, w, req, dns.RcodeNameError)
			return
		case kind == dns.TypeA && name == "big.test.":
			for i := range 100 {
				list = append(list, fmt.Sprintf("%s 30 IN A 192.0.2.%d", name, i))
			}
		case kind == dns.TypeA:
			list = []string{name + " 30 IN CNAME other.test.", "other.test. 30 IN A 192.0.2.7"}
		case kind == dns.TypeAAAA && name == "both.test.":
			list = []string{name + " 30 IN AAAA 2001:db8::7"}
		}
		reply(t, w, req, dns.RcodeSuccess, list...)
	})
	for _, servers := range [][]netip.AddrPort{{good}, {silent, good}, {broken, good}, {broken, silent, good}} {
		c := client(servers...)
		r := c.Resolver()
		got, err := r.LookupNetIP(t.Context(), "ip", "both.test.")
		if err != nil || len(got) != 2 {
			t.Errorf("%v: %v, %v", servers, got, err)
		}
		got, err = r.LookupNetIP(t.Context(), "ip", "one.test.")
		if err != nil || len(got) != 1 || got[0].Unmap() != netip.MustParseAddr("192.0.2.7") {
			t.Errorf("%v: %v, %v", servers, got, err)
		}
		_, err = r.LookupNetIP(t.Context(), "ip", "gone.test.")
		var failed *net.DNSError
		if !errors.As(err, &failed) || !failed.IsNotFound {
			t.Errorf("%v: %v", servers, err)
		}
	}
	for _, servers := range [][]netip.AddrPort{{good}, {broken, good}} {
		c := client(servers...)
		if got, err := c.Resolver().LookupNetIP(t.Context(), "ip4", "big.test."); err == nil && len(got) != 100 || err != nil && len(servers) == 1 {
			t.Errorf("%v: %d addresses, %v", servers, len(got), err)
		}
	}
	if byTCP.Load() == 0 {
		t.Error("an answer that did not fit was not asked for by TCP")
	}
	// Nobody answers: that is known after a second for each try of package net.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	c := client(silent)
	if _, err := c.Resolver().LookupNetIP(ctx, "ip", "one.test."); err == nil {
		t.Error("an answer of nobody")
	}
}

// What others send to the socket of a question is no answer.
func TestForgedAnswer(t *testing.T) {
	var sent atomic.Int64
	server := serve(t, func(w dns.ResponseWriter, req *dns.Msg) {
		from := w.RemoteAddr().(*net.UDPAddr).AddrPort()
		other, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Error(err)
			return
		}
		defer other.Close()
		res := new(dns.Msg).SetReply(req)
		res.Answer = []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: req.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{"forged"}}}
		b, err := res.Pack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = other.WriteTo(b, net.UDPAddrFromAddrPort(from)) // another address
		wrong := slices.Clone(b)
		wrong[0]++
		_, _ = w.Write(wrong) // another question
		if sent.Add(1) == 2 { // the first question gets no answer, only the next
			reply(t, w, req, 0, `n.test. 30 IN TXT "true"`)
		}
	})
	c := client(server)
	if got, err := c.TXT(t.Context(), "n.test"); err != nil || !slices.Equal(got, []string{"true"}) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestResolver(t *testing.T) {
	id := testID(t)
	asked := make(chan string, len(stagger))
	server := serve(t, func(w dns.ResponseWriter, req *dns.Msg) {
		question := req.Question[0].Name
		asked <- question
		reply(t, w, req, 0, question+` 30 IN TXT "relay=https://relay.example"`, question+` 30 IN TXT "addr=192.0.2.7:4433"`)
	})
	r := &Resolver{Origin: "discovery.test", Client: client(server)}
	var items []discovery.Item
	if err := r.Resolve(t.Context(), id, func(i discovery.Item) { items = append(items, i) }); err != nil {
		t.Fatal(err)
	}
	if question := <-asked; question != "_iroh.df9sse9bp1nuftim3yhxiuk6w6r5hddsskjygpydux7esxjstioo.discovery.test." {
		t.Errorf("asked for %s", question)
	}
	if len(items) != 1 || items[0].Source != "dns" || items[0].Addr.ID != id || items[0].Addr.Relay.String() != "https://relay.example./" || len(items[0].Addr.Direct) != 1 || !items[0].Signed.IsZero() {
		t.Errorf("%+v", items)
	}
}

func TestHostServers(t *testing.T) {
	dir := t.TempDir()
	for _, tc := range []struct{ name, file, want string }{
		{"two", "nameserver 192.0.2.53\nsearch x\nnameserver 2001:db8::53\n", "192.0.2.53:53 [2001:db8::53]:53"},
		{"none", "search x\n", ""},
		{"made up", "nameserver fec0:0:0:ffff::1\nnameserver fec0:0:0:ffff::2%3\n", ""},
		{"with a link", "nameserver fe80::1%eth0\n", "[fe80::1%eth0]:53"},
	} {
		path := filepath.Join(dir, "resolv.conf")
		if err := os.WriteFile(path, []byte(tc.file), 0o600); err != nil {
			t.Fatal(err)
		}
		want := tc.want
		if want == "" {
			want = text(Public())
		}
		if got := text(serversOf(path)); got != want {
			t.Errorf("%s: %s, want %s", tc.name, got, want)
		}
	}
	if got := text(serversOf(filepath.Join(dir, "absent"))); got != text(Public()) {
		t.Errorf("without a file: %s", got)
	}
}

func text(list []netip.AddrPort) string {
	var all []string
	for _, a := range list {
		all = append(all, a.String())
	}
	return strings.Join(all, " ")
}

// FuzzAnswer reads answers of anybody.
func FuzzAnswer(f *testing.F) {
	req := new(dns.Msg).SetQuestion("n.test.", dns.TypeTXT)
	res := new(dns.Msg).SetReply(req)
	rr, err := dns.NewRR(`n.test. 30 IN TXT "addr=192.0.2.1:1" "x"`)
	if err != nil {
		f.Fatal(err)
	}
	res.Answer = []dns.RR{rr}
	packed, err := res.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packed)
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(dns.Msg)
		if m.Unpack(b) != nil {
			return
		}
		list, err := texts(m, req)
		if (err == nil) != (len(list) > 0) || len(list) > maxRecords {
			t.Errorf("%q, %v", list, err)
		}
		if addr := discovery.ParseRecords(identity.NodeID{1}, list); len(addr.Direct) > discovery.MaxDirect {
			t.Errorf("%+v", addr)
		}
	})
}
