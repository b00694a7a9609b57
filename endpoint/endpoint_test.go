package endpoint

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodetun/nodetun/discovery"
	"github.com/nodetun/nodetun/discovery/discoveryserver"
	"github.com/nodetun/nodetun/discovery/discoveryserver/discoverytest"
	"github.com/nodetun/nodetun/discovery/pkarr"
	"github.com/nodetun/nodetun/discovery/static"
	"github.com/nodetun/nodetun/identity"
)

func TestConnect(t *testing.T) {
	a, b := start(t, loopback()), start(t, loopback())
	dialled, accepted := connect(t, a, b)
	for _, side := range []struct {
		name    string
		c       *Connection
		remote  identity.NodeID
		dialler bool
	}{{"dialled", dialled, b.NodeID(), true}, {"accepted", accepted, a.NodeID(), false}} {
		if got := side.c.RemoteNodeID(); got != side.remote {
			t.Errorf("%s: remote %s, want %s", side.name, got, side.remote)
		}
		if side.c.ALPN() != testALPN || side.c.Dialler() != side.dialler {
			t.Errorf("%s: ALPN %q, dialler %v", side.name, side.c.ALPN(), side.c.Dialler())
		}
		if side.c.CloseCause() != nil {
			t.Errorf("%s: %v", side.name, side.c.CloseCause())
		}
	}
	one, err := dialled.ExportKeyingMaterial("EXPORTER test", []byte("context"), 32)
	if err != nil {
		t.Fatal(err)
	}
	two, err := accepted.ExportKeyingMaterial("EXPORTER test", []byte("context"), 32)
	if err != nil || !bytes.Equal(one, two) {
		t.Errorf("exported %x and %x, %v", one, two, err)
	}
	if info, ok := dialled.Path(); !ok || info.Conn.String() != "direct" {
		t.Errorf("path %v", info.Conn)
	}
	if want := "direct(" + b.addr().Direct[0].String() + ")"; dialled.PathText() != want {
		t.Errorf("path %s, want %s", dialled.PathText(), want)
	}
	if dialled.RTT() <= 0 || dialled.Stats().PacketsSent == 0 {
		t.Errorf("rtt %v, stats %+v", dialled.RTT(), dialled.Stats())
	}
}

func TestHundredStreams(t *testing.T) {
	a, b := start(t, loopback()), start(t, loopback())
	serveEcho(b)
	ctx := withTimeout(t)
	c, err := a.Connect(ctx, b.addr(), testALPN)
	if err != nil {
		t.Fatal(err)
	}
	var streams sync.WaitGroup
	for range 100 {
		streams.Go(func() {
			if err := echoOnce(ctx, c, randomBytes(50_000)); err != nil {
				t.Error(err)
			}
		})
	}
	streams.Wait()
}

// echoOnce sends a request on a stream of its own and compares the answer.
func echoOnce(ctx context.Context, c *Connection, request []byte) error {
	s, err := c.OpenStream(ctx)
	if err != nil {
		return err
	}
	deadline, _ := ctx.Deadline()
	if err := s.SetDeadline(deadline); err != nil {
		return err
	}
	var writer sync.WaitGroup
	var writeErr error
	writer.Go(func() {
		_, err := s.Write(request)
		writeErr = errors.Join(err, s.Close())
	})
	answer, err := io.ReadAll(s)
	writer.Wait()
	if err = errors.Join(err, writeErr); err != nil {
		return err
	}
	if !bytes.Equal(answer, request) {
		return errors.New("the answer is not the request")
	}
	return nil
}

func TestDatagrams(t *testing.T) {
	a, b := start(t, loopback()), start(t, loopback())
	serveEcho(b)
	ctx := withTimeout(t)
	c, err := a.Connect(ctx, b.addr(), testALPN)
	if err != nil {
		t.Fatal(err)
	}
	largest := c.MaxDatagramSize()
	if largest < 1163 || largest > 1436-37 {
		t.Errorf("largest datagram %d", largest)
	}
	for _, size := range []int{0, 1, 100, largest} {
		b := randomBytes(size)
		if err := c.SendDatagram(b); err != nil {
			t.Fatalf("size %d: %v", size, err)
		}
		got, err := c.ReceiveDatagram(ctx)
		if err != nil || !bytes.Equal(got, b) {
			t.Fatalf("size %d: %d bytes, %v", size, len(got), err)
		}
	}
	var tooLarge *DatagramTooLargeError
	if err := c.SendDatagram(make([]byte, 1500)); !errors.As(err, &tooLarge) || tooLarge.MaxDatagramPayloadSize < 1163 {
		t.Errorf("too large: %v", err)
	}
}

// QUIC finds out that the path takes more than the first packet. It halves the
// interval up to 1452 bytes until 21 are left, so the search ends at 1436.
func TestDatagramsGrow(t *testing.T) {
	const end = 1436 - 37
	a, b := start(t, loopback()), start(t, loopback())
	dialled, accepted := connect(t, a, b)
	go echoStreams(accepted)
	ctx := withTimeout(t)
	for dialled.MaxDatagramSize() < end {
		if err := echoOnce(ctx, dialled, randomBytes(100_000)); err != nil {
			t.Fatalf("at %d: %v", dialled.MaxDatagramSize(), err)
		}
	}
	full := randomBytes(dialled.MaxDatagramSize())
	if err := dialled.SendDatagram(full); err != nil {
		t.Fatal(err)
	}
	if got, err := accepted.ReceiveDatagram(ctx); err != nil || !bytes.Equal(got, full) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestGracefulClose(t *testing.T) {
	a, b := start(t, loopback()), start(t, loopback())
	dialled, accepted := connect(t, a, b)
	s, err := accepted.OpenStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dialled.Close(77, "enough")
	select {
	case <-accepted.Context().Done():
	case <-withTimeout(t).Done():
		t.Fatal("the close did not arrive")
	}
	want := CloseError{Kind: Application, Code: 77, Reason: "enough", Remote: true}
	_, streamErr := s.Read(make([]byte, 1))
	for name, err := range map[string]error{"connection": accepted.CloseCause(), "stream": streamErr} {
		got, ok := Cause(err)
		if got.err = nil; !ok || got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	got, _ := Cause(dialled.CloseCause())
	if got.Remote || got.Code != 77 {
		t.Errorf("own side: %+v", got)
	}
}

// The end of the endpoint is told to every peer, also to those whose
// connection nobody took.
func TestEndpointClose(t *testing.T) {
	a, b := start(t, loopback()), start(t, loopback())
	dialled, _ := connect(t, a, b)
	waiting, err := a.Connect(withTimeout(t), b.addr(), testALPN)
	if err != nil {
		t.Fatal(err)
	}
	if err := echoOnce(expired(t), waiting, []byte("x")); err == nil {
		t.Fatal("nobody answers, yet there is an answer")
	}
	b.Close(4, "shutting down")
	b.stop()
	for name, c := range map[string]*Connection{"accepted": dialled, "not accepted": waiting} {
		select {
		case <-c.Context().Done():
		case <-withTimeout(t).Done():
			t.Fatalf("%s: the close did not arrive", name)
		}
		if got, _ := Cause(c.CloseCause()); got.Kind != Application || got.Code != 4 || got.Reason != "shutting down" {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if _, err := b.Accept(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("accept: %v", err)
	}
	if _, err := b.Connect(t.Context(), a.addr(), testALPN); !errors.Is(err, ErrClosed) {
		t.Errorf("connect: %v", err)
	}
}

// expired returns a context that ends soon.
func expired(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

func TestNeverRun(t *testing.T) {
	e, err := New(loopback())
	if err != nil {
		t.Fatal(err)
	}
	e.Close(0, "")
	e.Close(0, "")
	if _, err := e.Accept(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("accept: %v", err)
	}
	if err := e.Run(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("run: %v", err)
	}
}

func TestConnectErrors(t *testing.T) {
	a, b := start(t, loopback()), start(t, loopback())
	nobody := identity.GenerateSecretKey().NodeID()
	own, _ := a.LocalAddrs()
	for _, tc := range []struct {
		name string
		addr identity.NodeAddr
		alpn string
		want error
	}{
		{"ourself", a.addr(), testALPN, ErrSelf},
		{"no address", identity.NodeAddr{ID: nobody}, testALPN, ErrNoAddress},
		{"our own address", identity.NodeAddr{ID: nobody, Direct: []netip.AddrPort{own}}, testALPN, ErrNoAddress},
		{"zero id", identity.NodeAddr{}, testALPN, identity.ErrBadNodeID},
		{"unknown protocol", b.addr(), "other/9", ErrALPN},
	} {
		t.Run(tc.name, func(t *testing.T) {
			begin := time.Now()
			if _, err := a.Connect(withTimeout(t), tc.addr, tc.alpn); !errors.Is(err, tc.want) {
				t.Errorf("%v, want %v", err, tc.want)
			}
			if took := time.Since(begin); took > prompt {
				t.Errorf("took %v", took)
			}
		})
	}
	if _, err := a.Connect(withTimeout(t), b.addr(), ""); err == nil {
		t.Error("no protocol")
	}
}

// The error of a dial that nobody answers tells where it was tried.
func TestConnectSilence(t *testing.T) {
	t.Parallel()
	a := start(t, loopback())
	addr := identity.NodeAddr{ID: identity.GenerateSecretKey().NodeID(), Direct: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:9")}}
	_, err := a.Connect(expired(t), addr, testALPN)
	if !errors.Is(err, ErrNoAnswer) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := a.Connect(ctx, addr, testALPN); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	_, err = a.Connect(context.Background(), addr, testALPN)
	if closed, ok := Cause(err); !errors.Is(err, ErrNoAnswer) || !ok || closed.Kind != Idle && closed.Kind != Handshake {
		t.Errorf("without a deadline: %v", err)
	}
	t.Log(err)
}

// S6: a node that is not admitted has no connection, whatever it tries; one
// that is denied while its connection comes up is turned away by Accept.
func TestAdmit(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var admitted []identity.NodeID
	asked := 0
	cfg := loopback()
	cfg.Socket.Admit = func(id identity.NodeID) bool {
		mu.Lock()
		defer mu.Unlock()
		asked++
		return slices.Contains(admitted, id)
	}
	a, b := start(t, loopback()), start(t, cfg)
	if _, err := a.Connect(expired(t), b.addr(), testALPN); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("not admitted: %v", err)
	}
	mu.Lock()
	if asked == 0 {
		t.Error("nobody asked")
	}
	admitted = append(admitted, a.NodeID())
	mu.Unlock()
	c, err := a.Connect(withTimeout(t), b.addr(), testALPN)
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	admitted = nil
	mu.Unlock()
	if _, err := b.Accept(expired(t)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("accept: %v", err)
	}
	<-c.Context().Done()
	if got, _ := Cause(c.CloseCause()); got.Code != codeNotAuthorised || !got.Remote {
		t.Errorf("closed with %+v", got)
	}
}

func TestResolver(t *testing.T) {
	b := start(t, loopback())
	cfg := loopback()
	source := &static.Source{}
	cfg.Resolver = source
	a := start(t, cfg)
	serveEcho(b)
	if _, err := a.Connect(withTimeout(t), identity.NodeAddr{ID: b.NodeID()}, testALPN); !errors.Is(err, ErrNoAddress) {
		t.Errorf("nothing known: %v", err)
	}
	source.Set(b.addr())
	c, err := a.Connect(withTimeout(t), identity.NodeAddr{ID: b.NodeID()}, testALPN)
	if err != nil {
		t.Fatal(err)
	}
	if err := echoOnce(withTimeout(t), c, []byte("hello")); err != nil {
		t.Error(err)
	}
}

// liar is a resolver that answers with another node, and one that never ends.
type liar struct{ addr identity.NodeAddr }

func (l liar) Resolve(ctx context.Context, _ identity.NodeID, found func(discovery.Item)) error {
	found(discovery.Item{Addr: l.addr, Source: "liar"})
	<-ctx.Done()
	return ctx.Err()
}

// S27: what a source says about another node than asked for is ignored.

// A node is found through a discovery server, by HTTP or by DNS, as soon as it has published;
// a source that is out of order does not matter.
func TestServersFindNodes(t *testing.T) {
	server := discoverytest.Start(t, discoveryserver.Config{})
	sources := server.Resolver().(discovery.Concurrent)
	b := start(t, loopback())
	serveEcho(b)
	packet, err := pkarr.NewSigner(b.Endpoint.cfg.Socket.Key, 0, nil).Sign(time.Now(), b.addr())
	if err != nil {
		t.Fatal(err)
	}
	broken := pkarr.Resolver{Client: pkarr.Client{URL: "http://127.0.0.1:1/pkarr"}}
	for i, source := range sources {
		cfg := loopback()
		cfg.Resolver = discovery.Concurrent{broken, source}
		a := start(t, cfg)
		if i == 0 {
			if _, err := a.Connect(withTimeout(t), identity.NodeAddr{ID: b.NodeID()}, testALPN); !errors.Is(err, ErrNoAddress) {
				t.Errorf("before it published: %v", err)
			}
			if err := server.Client().Put(t.Context(), packet); err != nil {
				t.Fatal(err)
			}
		}
		c, err := a.Connect(withTimeout(t), identity.NodeAddr{ID: b.NodeID()}, testALPN)
		if err != nil {
			t.Fatal(err)
		}
		if err := echoOnce(withTimeout(t), c, []byte("hello")); err != nil {
			t.Error(err)
		}
	}
}

func TestResolverAboutAnother(t *testing.T) {
	b := start(t, loopback())
	cfg := loopback()
	cfg.Resolver = liar{addr: b.addr()}
	a := start(t, cfg)
	asked := identity.GenerateSecretKey().NodeID()
	if _, err := a.Connect(expired(t), identity.NodeAddr{ID: asked}, testALPN); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if info, ok := a.Socket().Remote(b.NodeID()); ok && len(info.Addrs) > 0 {
		t.Error("the address of another node was taken")
	}
	// With an address at hand a source that never ends stops no dial.
	if _, err := a.Connect(withTimeout(t), b.addr(), testALPN); err != nil {
		t.Error(err)
	}
}

// Dialled connections of a session protocol are silent when idle and live
// long; others have a keep-alive.
func TestDialSettings(t *testing.T) {
	cfg := loopback()
	cfg.IdleTimeout = time.Hour
	cfg.SessionALPNs = []string{"session/1"}
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close(0, "")
	session, other := e.quicConfig(true), e.quicConfig(false)
	if session.MaxIdleTimeout != time.Hour || session.KeepAlivePeriod != 0 {
		t.Errorf("session: %v, %v", session.MaxIdleTimeout, session.KeepAlivePeriod)
	}
	if other.MaxIdleTimeout != 30*time.Second || other.KeepAlivePeriod != time.Second {
		t.Errorf("other: %v, %v", other.MaxIdleTimeout, other.KeepAlivePeriod)
	}
	if session.MaxStreamReceiveWindow != 8<<20 || session.InitialStreamReceiveWindow != 256<<10 || session.MaxConnectionReceiveWindow != 64<<20 || session.MaxIncomingStreams != 1152 || session.InitialPacketSize != 1200 || session.Allow0RTT {
		t.Errorf("session: %+v", session)
	}
}

func TestIdleTimeout(t *testing.T) {
	cfg := loopback()
	cfg.IdleTimeout = 200 * time.Millisecond
	cfg.SessionALPNs = []string{testALPN}
	a, b := start(t, cfg), start(t, loopback())
	dialled, _ := connect(t, a, b)
	select {
	case <-dialled.Context().Done():
	case <-withTimeout(t).Done():
		t.Fatal("still up")
	}
	if got, _ := Cause(dialled.CloseCause()); got.Kind != Idle {
		t.Errorf("%+v", got)
	}
}

func TestNewRefuses(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("no key")
	}
	cfg := loopback()
	cfg.ALPNs = []string{""}
	if _, err := New(cfg); err == nil {
		t.Error("an empty ALPN")
	}
	first := start(t, loopback())
	v4, _ := first.LocalAddrs()
	cfg = loopback()
	cfg.Socket.Bind4, cfg.Socket.Bind6 = v4, netip.AddrPort{}
	if _, err := New(cfg); err == nil {
		t.Error("a port that is taken")
	}
}

// Protocols may be replaced while the endpoint runs; connections that are there go on.
func TestSetALPNs(t *testing.T) {
	a, b := start(t, loopback()), start(t, loopback())
	old, _ := connect(t, a, b)
	serveEcho(b)
	if err := b.SetALPNs("test/2"); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Connect(withTimeout(t), b.addr(), testALPN); err == nil {
		t.Error("the old protocol is still taken")
	}
	c, err := a.Connect(withTimeout(t), b.addr(), "test/2")
	if err != nil {
		t.Fatal(err)
	}
	if c.ALPN() != "test/2" {
		t.Errorf("ALPN %q", c.ALPN())
	}
	if err := old.Context().Err(); err != nil {
		t.Errorf("the old connection: %v", err)
	}
	for _, bad := range [][]string{nil, {""}, {"test/1", ""}} {
		if err := b.SetALPNs(bad...); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	cfg := loopback()
	cfg.ALPNs = nil
	if err := start(t, cfg).SetALPNs("test/1"); err == nil {
		t.Error("an endpoint that accepts nothing took a protocol")
	}
}

// When QUIC's transport ends by itself nothing works any more: Run says so, instead
// of waiting for ever.
func TestRunEndsWithTheTransport(t *testing.T) {
	for name, use := range map[string]func(*Endpoint){
		"accept": func(e *Endpoint) { _, _ = e.Accept(t.Context()) },
		"dial": func(e *Endpoint) {
			_, _ = e.Connect(t.Context(), identity.NodeAddr{ID: identity.GenerateSecretKey().NodeID(), Direct: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:9")}}, testALPN)
		},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := New(loopback())
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- e.Run(context.Background()) }()
			<-e.ready
			_ = e.transport.Close()
			use(e)
			if err := <-ended; err == nil || !strings.Contains(err.Error(), "QUIC stopped") {
				t.Errorf("Run: %v", err)
			}
		})
	}
}
