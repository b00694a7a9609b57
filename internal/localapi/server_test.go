package localapi

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
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

// S25: the group may ask, but not so much at a time that others cannot, nor run what costs seconds
// many times beside each other.
func TestGroupCannotCrowdOut(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	var who atomic.Int64 // the uid of who connects next
	looker := &looking{}
	server := NewServer(ServerConfig{
		Backend: looker, owner: 1, gid: 50,
		credentials: func(*net.UnixConn) (credentials, error) {
			return credentials{uid: int(who.Load()), groups: []int{50}}, nil
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx, listener) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	who.Store(1000)
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	refused := 0
	for range maxCrowd + 20 {
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		// Who is let in gets an answer, and stays.
		_, _ = io.WriteString(c, "GET /v1/status HTTP/1.1\r\nHost: nodetun\r\n\r\n")
		if answer, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil {
			refused++
		} else {
			_, _ = io.Copy(io.Discard, answer.Body)
		}
	}
	if refused != 20 {
		t.Errorf("%d connections refused, want 20", refused)
	}
	who.Store(1) // the owner
	if _, err := NewClient(socket).Status(t.Context()); err != nil {
		t.Errorf("the owner is not let in: %v", err)
	}
	who.Store(1000)
	for _, c := range conns {
		_ = c.Close()
	}
	client := NewClient(socket)
	for {
		if _, err := client.Status(t.Context()); err == nil {
			break
		}
	}
	var asking sync.WaitGroup
	for range 10 {
		asking.Go(func() { _, _ = client.Netcheck(t.Context(), func(string) {}) })
	}
	asking.Wait()
	if looker.most.Load() != 1 || looker.all.Load() != 10 {
		t.Errorf("%d looks, %d of them at a time", looker.all.Load(), looker.most.Load())
	}
}

// looking counts how many look at the network at a time.
type looking struct {
	Backend
	now, most, all atomic.Int64
}

func (*looking) Status(context.Context) (Status, error) { return Status{}, nil }

func (l *looking) Netcheck(context.Context, func(string)) (Netcheck, error) {
	defer l.now.Add(-1)
	if n := l.now.Add(1); n > l.most.Load() {
		l.most.Store(n)
	}
	l.all.Add(1)
	runtime.Gosched()
	return Netcheck{}, nil
}
