package relayserver

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of these tests.
const patience = time.Minute

// start runs a relay on loopback until the test ends.
func start(t testing.TB, cfg Config) *Server {
	t.Helper()
	s := unstarted(t, cfg)
	run(t, s)
	return s
}

// unstarted makes a relay on loopback.
func unstarted(t testing.TB, cfg Config) *Server {
	t.Helper()
	cfg.Addr = "127.0.0.1:0"
	if cfg.STUNAddr == "" {
		cfg.STUNAddr = "none"
	}
	cfg.Dev = cfg.TLS == nil
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// run runs a relay until the test ends, or stop is called.
func run(t testing.TB, s *Server) (stop func()) {
	t.Helper()
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// raw is a client that does exactly what the test says.
type raw struct {
	t      testing.TB
	conn   net.Conn
	br     *bufio.Reader
	frames *relay.Reader
}

func dialRaw(t testing.TB, s *Server) *raw {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return rawOn(t, conn)
}

// rawOn is a raw client on a connection, which it closes in the end.
func rawOn(t testing.TB, conn net.Conn) *raw {
	t.Helper()
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	br := bufio.NewReader(conn)
	return &raw{t: t, conn: conn, br: br, frames: relay.NewReader(br, nil)}
}

func (r *raw) write(b []byte) {
	r.t.Helper()
	if _, err := r.conn.Write(b); err != nil {
		r.t.Fatal(err)
	}
}

// upgradeRequest is what iroh-net 0.28.1 sends: no Connection header.
const upgradeRequest = "GET /relay HTTP/1.1\r\nUpgrade: iroh derp http\r\nHost: localhost\r\n\r\n"

func (r *raw) upgrade() *http.Response {
	r.t.Helper()
	r.write([]byte(upgradeRequest))
	response, err := http.ReadResponse(r.br, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		r.t.Fatal(response.Status)
	}
	return response
}

// next returns the next frame, after answering pings.
func (r *raw) next() (relay.Type, []byte) {
	r.t.Helper()
	t, body, err := r.frames.Next()
	if err != nil {
		r.t.Fatalf("next frame: %v", err)
	}
	return t, body
}

func (r *raw) expect(want relay.Type) []byte {
	r.t.Helper()
	t, body := r.next()
	if t != want {
		r.t.Fatalf("got %v %x, want %v", t, body, want)
	}
	return body
}

// ended reports that the server closes the connection, whatever it still sends.
func (r *raw) ended() {
	r.t.Helper()
	for {
		_, _, err := r.frames.Next()
		if err == nil {
			continue
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			r.t.Fatal("the connection goes on")
		}
		return
	}
}

// logIn upgrades and logs in, and waits until it took effect.
func logIn(t testing.TB, s *Server, key *identity.SecretKey) *raw {
	t.Helper()
	r := dialRaw(t, s)
	r.upgrade()
	r.write(relay.AppendClientInfo(nil, key))
	r.sync()
	return r
}

// sync waits until everything written so far was processed.
func (r *raw) sync() {
	r.t.Helper()
	data := [8]byte{'s', 'y', 'n', 'c'}
	r.write(relay.AppendPing(nil, data))
	if body := r.expect(relay.TypePong); !bytes.Equal(body, data[:]) {
		r.t.Fatalf("pong %x", body)
	}
}

func (r *raw) send(dst *identity.SecretKey, payload []byte) {
	r.t.Helper()
	r.write(relay.AppendPacket(nil, relay.TypeSendPacket, dst.NodeID(), payload))
}

// expectPacket waits for one packet.
func (r *raw) expectPacket(src *identity.SecretKey, payload []byte) {
	r.t.Helper()
	id, got, err := relay.ParsePacket(r.expect(relay.TypeRecvPacket))
	if err != nil || id != src.NodeID() || !bytes.Equal(got, payload) {
		r.t.Fatalf("%d bytes from %v, %v", len(got), id, err)
	}
}

// pipeClient connects by a pipe, for tests with a clock of their own. The login
// is not written.
func pipeClient(t testing.TB, s *Server) *raw {
	ours, theirs := net.Pipe()
	if !s.admit() {
		t.Fatal("closed")
	}
	go func() {
		defer s.clients.Done()
		conn := newStream(relay.NewConn(theirs, writeStall))
		defer conn.Close()
		s.serveConn(conn, visitor{inTime: func() bool { return true }})
	}()
	t.Cleanup(func() { _ = ours.Close() })
	br := bufio.NewReader(ours)
	return &raw{t: t, conn: ours, br: br, frames: relay.NewReader(br, nil)}
}

func newKey() *identity.SecretKey { return identity.GenerateSecretKey() }

func devServer(t testing.TB) *Server {
	t.Helper()
	s, err := New(Config{Dev: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
