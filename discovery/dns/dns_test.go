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
