package netcheck

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pion/stun/v2"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
)

// fakeNet is all there is outside of a Checker.
type fakeNet struct {
	checker *Checker
	cfg     Config

	mu      sync.Mutex
	servers map[netip.AddrPort]*fakeServer
	hosts   map[string][]netip.Addr
	web     map[string]http.HandlerFunc // by host:port; nil hangs
	webWait time.Duration
	hairpin bool
	refuse4 bool
	refuse6 bool
	sent    []netip.AddrPort
	dialled []string
}

// fakeServer answers STUN requests.
type fakeServer struct {
	delay time.Duration
	lose  int // so many requests are lost first
	seen  netip.AddrPort
	mute  bool
	reply func(b []byte, tx txID) // instead of an answer
}

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// newFake makes a network; the Checker comes with start.
func newFake() *fakeNet {
	return &fakeNet{
		servers: make(map[netip.AddrPort]*fakeServer), hosts: make(map[string][]netip.Addr),
		web: make(map[string]http.HandlerFunc), webWait: 10 * time.Millisecond,
		cfg: Config{NoICMP: true, HaveV6: func() bool { return false }},
	}
}

// serve adds a STUN server to ask.
func (f *fakeNet) serve(addr, seen string, delay time.Duration) *fakeServer {
	s := f.stun(addr, seen, delay)
	f.cfg.STUN = append(f.cfg.STUN, addr)
	return s
}

// stun adds a STUN server.
func (f *fakeNet) stun(addr, seen string, delay time.Duration) *fakeServer {
	s := &fakeServer{delay: delay, mute: seen == ""}
	if seen != "" {
		s.seen = ap(seen)
	}
	f.servers[ap(addr)] = s
	return s
}

// relay adds a relay with one address, which serves HTTP; STUN when delay is not 0.
func (f *fakeNet) relay(t testing.TB, name, addr, seen string, delay time.Duration) identity.RelayURL {
	t.Helper()
	url, err := identity.ParseRelayURL("http://" + name)
	if err != nil {
		t.Fatal(err)
	}
	a := netip.MustParseAddr(addr)
	f.hosts[name] = []netip.Addr{a}
	f.web[name+":80"] = relayPages
	if delay > 0 {
		f.stun(netip.AddrPortFrom(a, relay.DefaultSTUNPort).String(), seen, delay)
	}
	f.cfg.Relays = append(f.cfg.Relays, relay.Node{URL: url})
	return url
}

// relayPages is what a relay serves.
func relayPages(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/ping":
		w.WriteHeader(200)
	case "/generate_204":
		if c := r.Header.Get("X-Tailscale-Challenge"); c != "" {
			w.Header().Set("X-Tailscale-Response", "response "+c)
		}
		w.WriteHeader(204)
	default:
		w.WriteHeader(404)
	}
}

func (f *fakeNet) start() *Checker {
	f.cfg.Send, f.cfg.Dial, f.cfg.Lookup = f.send, f.dial, f.lookup
	f.checker = New(f.cfg)
	return f.checker
}

func (f *fakeNet) send(b []byte, to netip.AddrPort) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent = append(f.sent, to)
	if is4 := to.Addr().Is4(); is4 && f.refuse4 || !is4 && f.refuse6 {
		return &net.OpError{Op: "write", Err: syscall.ENETUNREACH}
	}
	b = append([]byte(nil), b...)
	s := f.servers[to]
	if s == nil {
		if f.hairpin {
			time.AfterFunc(time.Millisecond, func() { f.checker.HandleSTUN(b, to) })
		}
		return nil
	}
	if s.lose > 0 {
		s.lose--
		return nil
	}
	tx, _, request, err := parseSTUN(b)
	if err != nil || !request {
		panic("not a binding request")
	}
	switch {
	case s.reply != nil:
		time.AfterFunc(s.delay, func() { s.reply(b, tx) })
	case !s.mute:
		time.AfterFunc(s.delay, func() { f.checker.HandleSTUN(success(tx, s.seen), to) })
	}
	return nil
}

// success is an answer.
func success(tx txID, seen netip.AddrPort) []byte {
	m, err := stun.Build(stun.NewTransactionIDSetter(tx), stun.BindingSuccess,
		&stun.XORMappedAddress{IP: seen.Addr().AsSlice(), Port: int(seen.Port())}, stun.Fingerprint)
	if err != nil {
		panic(err)
	}
	return m.Raw
}

func (f *fakeNet) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	f.mu.Lock()
	addrs, ok := f.hosts[strings.TrimSuffix(host, ".")]
	f.mu.Unlock()
	if !ok {
		return nil, errors.New("no such host")
	}
	if addrs == nil { // hangs
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return addrs, nil
}

func (f *fakeNet) dial(ctx context.Context, _, address string) (net.Conn, error) {
	address = strings.Replace(address, ".:", ":", 1) // relays have absolute names
	f.mu.Lock()
	h, ok := f.web[address]
	f.dialled = append(f.dialled, address)
	f.mu.Unlock()
	if !ok {
		return nil, syscall.ECONNREFUSED
	}
	if !f.wait(ctx) {
		return nil, ctx.Err()
	}
	client, server := net.Pipe()
	go f.serveWeb(server, h)
	return client, nil
}

// wait takes the time of one way there and back.
func (f *fakeNet) wait(ctx context.Context) bool {
	timer := time.NewTimer(f.webWait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// serveWeb serves one connection until the other side closes it.
func (f *fakeNet) serveWeb(conn net.Conn, h http.HandlerFunc) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	for {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if h == nil {
			_, _ = in.ReadByte() // until it is closed
			return
		}
		f.wait(context.Background())
		w := &page{header: make(http.Header), status: 200}
		h(w, r)
		resp := &http.Response{
			StatusCode: w.status, ProtoMajor: 1, ProtoMinor: 1, Header: w.header, Request: r,
			ContentLength: int64(w.body.Len()), Body: readCloser{strings.NewReader(w.body.String())},
		}
		if resp.Write(conn) != nil {
			return
		}
	}
}

// page is a http.ResponseWriter.
type page struct {
	header http.Header
	status int
	body   strings.Builder
}

func (p *page) Header() http.Header         { return p.header }
func (p *page) WriteHeader(status int)      { p.status = status }
func (p *page) Write(b []byte) (int, error) { return p.body.Write(b) }

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

// report runs the checker.
func (f *fakeNet) report(t testing.TB, full bool) *Report {
	t.Helper()
	began := time.Now()
	r, err := f.checker.Run(t.Context(), full)
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Fatalf("took %v", took)
	}
	if f.checker.Last() != r {
		t.Fatal("Last is another one")
	}
	f.checker.mu.Lock()
	defer f.checker.mu.Unlock()
	if n := len(f.checker.inflight); n != 0 {
		t.Fatalf("%d requests still in flight", n)
	}
	return r
}
