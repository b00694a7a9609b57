package relaytest

import (
	"context"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/nodetun/nodetun/relay/relayserver"
)

// Memory is a relay that is reached through pipes, for tests with a clock of their
// own. It has no STUN.
type Memory struct {
	// Server is the relay itself.
	Server *relayserver.Server

	http   *http.Server
	conns  chan net.Conn
	closed chan struct{}
	stop   func()
}

// StartMemory runs a Dev relay until the test ends.
func StartMemory(t testing.TB, cfg relayserver.Config) *Memory {
	t.Helper()
	cfg.Dev = true
	server, err := relayserver.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	m := &Memory{Server: server, conns: make(chan net.Conn), closed: make(chan struct{})}
	m.http = &http.Server{Handler: server.Handler()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = m.http.Serve(memoryListener{m})
	}()
	m.stop = sync.OnceFunc(func() {
		close(m.closed)
		server.Close()
		_ = m.http.Close()
		<-done
	})
	t.Cleanup(m.stop)
	return m
}

// Stop ends the relay and all connections to it. It may be called again.
func (m *Memory) Stop() { m.stop() }

// Dial connects to the relay; it fails as one refused when the relay has ended.
func (m *Memory) Dial(ctx context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case m.conns <- theirs:
		return ours, nil
	case <-m.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// memoryListener is a net.Listener that hands out the other ends of Dial.
type memoryListener struct{ m *Memory }

func (l memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.m.conns:
		return c, nil
	case <-l.m.closed:
		return nil, net.ErrClosed
	}
}

func (l memoryListener) Close() error   { return nil }
func (l memoryListener) Addr() net.Addr { return &net.UnixAddr{Name: "memory"} }
