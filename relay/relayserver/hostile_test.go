package relayserver

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/nodetun/nodetun/internal/webserver/webservertest"
	"github.com/nodetun/nodetun/relay"
)

// What is no good request is answered with an error or with nothing, and its
// connection closed; nobody else notices.
func TestMalformedHTTP(t *testing.T) {
	s := start(t, Config{})
	a, b := newKey(), newKey()
	ra, rb := logIn(t, s, a), logIn(t, s, b)
	for name, request := range map[string]string{
		"nothing":               "\r\n\r\n",
		"noise":                 "\x00\x01\x02\x03\xff\xfe\r\n\r\n",
		"TLS on a plain port":   "\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + strings.Repeat("x", 160),
		"no version":            "GET /relay\r\n\r\n",
		"HTTP/2 preface":        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"no host":               "GET /relay HTTP/1.1\r\nUpgrade: iroh derp http\r\n\r\n",
		"two hosts":             "GET /relay HTTP/1.1\r\nHost: a\r\nHost: b\r\nUpgrade: iroh derp http\r\n\r\n",
		"header without colon":  "GET /relay HTTP/1.1\r\nHost: a\r\nUpgrade iroh derp http\r\n\r\n",
		"space before colon":    "GET /relay HTTP/1.1\r\nHost: a\r\nUpgrade : iroh derp http\r\n\r\n",
		"endless header":        "GET /relay HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("y", 2*maxHead) + "\r\n\r\n",
		"many headers":          "GET /relay HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: y\r\n", maxHead) + "\r\n",
		"endless line":          "GET /" + strings.Repeat("z", 2*maxHead) + " HTTP/1.1\r\n\r\n",
		"bad length":            "GET /relay HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
		"two lengths":           "GET /relay HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n",
		"post":                  "POST /relay HTTP/1.1\r\nHost: a\r\nUpgrade: iroh derp http\r\nConnection: close\r\n\r\n",
		"another upgrade":       "GET /relay HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: close\r\n\r\n",
		"socket without key":    "GET /relay HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: close\r\n\r\n",
		"socket of another age": "GET /relay HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: close\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 8\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			r := dialRaw(t, s)
			_, _ = io.WriteString(r.conn, request) // the server may have closed before the end
			if tcp, ok := r.conn.(*net.TCPConn); ok {
				_ = tcp.CloseWrite()
			}
			answer, err := io.ReadAll(r.br)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal("the connection goes on")
			}
			if bytes.HasPrefix(answer, []byte("HTTP/1.1 101")) {
				t.Errorf("%.80q", answer)
			}
		})
	}
	ra.send(b, []byte("still here"))
	rb.expectPacket(a, []byte("still here"))
	if n := s.Counters().Clients; n != 2 {
		t.Errorf("%d clients", n)
	}
}

// served has a server accept the other end of the returned connections.
func served(t *testing.T, cfg Config) (dial func() net.Conn) {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	source := make(pipes)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.serveHTTP(ctx, s.wrap(source), s.Handler()) }()
	t.Cleanup(func() {
		cancel()
		close(source)
		if err := <-done; err != nil {
			t.Error(err)
		}
		s.Close()
	})
	return func() net.Conn {
		ours, theirs := net.Pipe()
		source <- fromLoopback{theirs}
		return ours
	}
}

// fromLoopback is a connection whose other end is on this host.
type fromLoopback struct{ net.Conn }

func (fromLoopback) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// pipes is a listener.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if c, ok := <-p; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return textAddr("pipes") }

// Who says nothing, or says it letter by letter, has ten seconds, with TLS and
// without.
func TestSlowLoris(t *testing.T) {
	config := webservertest.NewAuthority(t).Config("relay.example")
	for name, cfg := range map[string]Config{
		"plain": {Dev: true},
		"TLS":   {TLS: config, Access: Access{Mode: AccessEveryone}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dial := served(t, cfg)
				for _, letters := range []string{"", upgradeRequest} {
					conn := dial()
					begin := time.Now()
					var writing sync.WaitGroup
					writing.Go(func() {
						for i := range len(letters) {
							if _, err := io.WriteString(conn, letters[i:i+1]); err != nil {
								return
							}
							time.Sleep(time.Second)
						}
					})
					_, err := io.ReadAll(conn)
					if took := time.Since(begin); took > headTimeout+time.Second {
						t.Errorf("%d letters: closed after %v, %v", len(letters), took, err)
					}
					_ = conn.Close()
					writing.Wait()
				}
			})
		})
	}
}

// A client that began the upgrade has ten seconds for its login, however slowly it
// writes it; a handshake of TLS too.
func TestSlowLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := served(t, Config{Dev: true})()
		if _, err := io.WriteString(conn, upgradeRequest); err != nil {
			t.Fatal(err)
		}
		br := bufio.NewReader(conn)
		response, err := http.ReadResponse(br, nil)
		if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
			t.Fatal(response, err)
		}
		begin := time.Now()
		var writing sync.WaitGroup
		defer writing.Wait()
		defer conn.Close()
		writing.Go(func() {
			for _, b := range relay.AppendClientInfo(nil, newKey()) {
				if _, err := conn.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		})
		_, _ = io.ReadAll(br)
		if took := time.Since(begin); took > loginTimeout+time.Second {
			t.Errorf("closed after %v", took)
		}
	})
	config := webservertest.NewAuthority(t).Config("relay.example")
	synctest.Test(t, func(t *testing.T) {
		conn := served(t, Config{TLS: config, Access: Access{Mode: AccessEveryone}})()
		defer conn.Close()
		begin := time.Now()
		client := tls.Client(halting{conn}, &tls.Config{InsecureSkipVerify: true})
		if err := client.Handshake(); err == nil {
			t.Error("the handshake succeeded")
		}
		if took := time.Since(begin); took > headTimeout+time.Second {
			t.Errorf("closed after %v", took)
		}
	})
}

// halting writes a byte a second.
type halting struct{ net.Conn }

func (h halting) Write(b []byte) (int, error) {
	for i := range b {
		if _, err := h.Conn.Write(b[i : i+1]); err != nil {
			return i, err
		}
		time.Sleep(time.Second)
	}
	return len(b), nil
}

// Ten thousand bad logins leave nothing behind but a count.
func TestFailedLogins(t *testing.T) {
	const logins = 10_000
	s := start(t, Config{})
	a, b := newKey(), newKey()
	ra, rb := logIn(t, s, a), logIn(t, s, b)
	forged := relay.AppendClientInfo(nil, newKey())
	forged[50] ^= 1
	bad := func() error {
		conn, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(conn, upgradeRequest); err != nil {
			return err
		}
		br := bufio.NewReader(conn)
		if _, err := http.ReadResponse(br, nil); err != nil {
			return err
		}
		if _, err := conn.Write(forged); err != nil {
			return err
		}
		if n, err := io.Copy(io.Discard, br); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			return errors.New("the relay goes on")
		}
		return nil
	}
	memory := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	work := make(chan struct{})
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range work {
				if err := bad(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	var before uint64
	for i := range logins {
		if i == logins/10 { // what stays at once, pools and tables, is there
			before = memory()
		}
		work <- struct{}{}
		if i%1000 == 0 {
			ra.send(b, []byte("meanwhile"))
			rb.expectPacket(a, []byte("meanwhile"))
		}
	}
	close(work)
	wg.Wait()
	after := memory()
	if after > before+4<<20 {
		t.Errorf("%d KiB more than before", (after-before)>>10)
	}
	if c := s.Counters(); c.LoginFailures != logins || c.Accepts != 2 || c.Clients != 2 {
		t.Errorf("%+v", c)
	}
}

// A body that comes slowly, and requests one after the other, hold a connection no longer than
// a login may take.
func TestSlowBodies(t *testing.T) {
	const slow = "POST / HTTP/1.1\r\nHost: relay\r\nContent-Length: 1000\r\n\r\n"
	const quick = "GET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n"
	for name, requests := range map[string][]string{
		"body": {slow}, "chunks": {"POST / HTTP/1.1\r\nHost: relay\r\nTransfer-Encoding: chunked\r\n\r\n"},
		"letters":  append([]string{slow}, strings.Split(strings.Repeat("x ", 900), " ")...),
		"requests": strings.Split(strings.Repeat(quick+"|", 100), "|"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn := served(t, Config{Dev: true})()
				begin := time.Now()
				var writing sync.WaitGroup
				writing.Go(func() {
					for _, text := range requests {
						if _, err := io.WriteString(conn, text); err != nil {
							return
						}
						time.Sleep(500 * time.Millisecond)
					}
				})
				_, err := io.Copy(io.Discard, conn)
				if took := time.Since(begin); took > loginTimeout+time.Second {
					t.Errorf("closed after %v, %v", took, err)
				}
				_ = conn.Close()
				writing.Wait()
			})
		})
	}
}

// A proxy may keep connections for one client after the other: who comes by one that is old has
// the whole time for the login.
func TestLoginByOldConnectionOfProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := served(t, Config{Dev: true, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})()
		r := rawOn(t, conn)
		r.write([]byte("GET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n"))
		if answer, err := http.ReadResponse(r.br, nil); err != nil || answer.StatusCode != http.StatusOK {
			t.Fatal(answer, err)
		} else if _, err := io.Copy(io.Discard, answer.Body); err != nil {
			t.Fatal(err)
		}
		time.Sleep(loginTimeout - time.Second)
		r.upgrade()
		time.Sleep(loginTimeout - time.Second)
		r.write(relay.AppendClientInfo(nil, newKey()))
		r.sync()
		time.Sleep(2 * loginTimeout)
		r.sync()
	})
}

// S26: whatever a client sends is paid for, also what makes no frame.
func TestEveryByteCounts(t *testing.T) {
	const rate = 1 << 20 // bytes a second, and as many at once
	for name, flood := range map[string]func(ctx context.Context, ws *websocket.Conn) (int, error){
		"text": func(ctx context.Context, ws *websocket.Conn) (int, error) {
			return 32 << 10, ws.Write(ctx, websocket.MessageText, make([]byte, 32<<10))
		},
		"odd frames": func(ctx context.Context, ws *websocket.Conn) (int, error) {
			frame := relay.AppendHealth(nil, strings.Repeat("x", 16<<10))
			return len(frame), ws.Write(ctx, websocket.MessageBinary, relay.Message(frame))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dial := served(t, Config{Dev: true, Limits: Limits{ReceivePerClient: rate, ReceiveBurst: rate}})
				client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return dial(), nil }}}
				defer client.CloseIdleConnections()
				ctx := t.Context()
				ws, _, err := websocket.Dial(ctx, "ws://relay/relay", &websocket.DialOptions{HTTPClient: client})
				if err != nil {
					t.Fatal(err)
				}
				defer ws.CloseNow()
				if err := ws.Write(ctx, websocket.MessageBinary, relay.Message(relay.AppendClientInfo(nil, newKey()))); err != nil {
					t.Fatal(err)
				}
				begin, sent := time.Now(), 0
				for sent < 6*rate {
					n, err := flood(ctx, ws)
					if err != nil {
						t.Fatal(err)
					}
					sent += n
				}
				if took := time.Since(begin); took < 4*time.Second || took > 6*time.Second {
					t.Errorf("%d bytes were read within %v", sent, took)
				}
			})
		})
	}
}
