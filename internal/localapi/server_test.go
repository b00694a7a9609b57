package localapi

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener in memory.
type pipes struct {
	conns chan net.Conn
	ended chan struct{}
	close func()
}

func newPipes() *pipes {
	p := &pipes{conns: make(chan net.Conn), ended: make(chan struct{})}
	p.close = sync.OnceFunc(func() { close(p.ended) })
	return p
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.ended:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.close(); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }

// slow takes a while for a ping.
type slow struct{ Backend }

const slowPing = 50 * time.Second

func (slow) Ping(ctx context.Context, r PingRequest) (Ping, error) {
	select {
	case <-time.After(slowPing):
		return Ping{Peer: r.Peer}, nil
	case <-ctx.Done():
		return Ping{}, ctx.Err()
	}
}

// A request has to arrive in bounded time; its answer may take longer.
func TestSlowAnswersAndSlowRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, listener := NewServer(ServerConfig{Backend: slow{}}), newPipes()
		server.http.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, accessKey{}, accessAll)
		}
		ctx, ended := t.Context(), make(chan error, 1)
		go func() { ended <- server.Run(ctx, listener) }()
		t.Cleanup(func() {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
		ask := func(request string) (*http.Response, net.Conn) {
			ours, theirs := net.Pipe()
			t.Cleanup(func() { ours.Close() })
			listener.conns <- theirs
			go io.WriteString(ours, request)
			answer, err := http.ReadResponse(bufio.NewReader(ours), nil)
			if err != nil {
				t.Fatal(err)
			}
			return answer, ours
		}

		began := time.Now()
		answer, _ := ask("POST /v1/ping HTTP/1.1\r\nHost: nodetun\r\nContent-Length: 14\r\n\r\n{\"peer\":\"nas\"}")
		var got Ping
		if err := json.NewDecoder(answer.Body).Decode(&got); err != nil || got.Peer != "nas" || time.Since(began) != slowPing {
			t.Errorf("after %v: status %d, %+v, %v", time.Since(began), answer.StatusCode, got, err)
		}

		began = time.Now()
		answer, _ = ask("POST /v1/ping HTTP/1.1\r\nHost: nodetun\r\nContent-Length: 14\r\n\r\n{")
		text, _ := io.ReadAll(answer.Body)
		if answer.StatusCode != http.StatusBadRequest || time.Since(began) != bodyTimeout {
			t.Errorf("half a request: status %d after %v: %s", answer.StatusCode, time.Since(began), strings.TrimSpace(string(text)))
		}
	})
}
