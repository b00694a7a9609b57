package relayclient_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	neturl "net/url"
	"strings"
	"testing"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay/relayclient"
	"github.com/nodetun/nodetun/relay/relayserver"
	"github.com/nodetun/nodetun/relay/relayserver/relaytest"
)

// proxy serves CONNECT on loopback for one test. answer returns what it says
// instead of connecting, empty for nothing special.
func proxy(t *testing.T, answer func(*http.Request) string) *neturl.URL {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serveProxy(conn, answer)
		}
	}()
	return &neturl.URL{Scheme: "http", Host: l.Addr().String()}
}

func serveProxy(conn net.Conn, answer func(*http.Request) string) {
	defer conn.Close()
	br := bufio.NewReader(conn)
	req, err := http.ReadRequest(br)
	if err != nil {
		return
	}
	if text := answer(req); text != "" {
		_, _ = io.WriteString(conn, text)
		_, _ = io.Copy(io.Discard, conn)
		return
	}
	target, err := net.Dial("tcp", req.Host)
	if err != nil {
		return
	}
	defer target.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n")
	go func() { _, _ = io.Copy(target, br) }()
	_, _ = io.Copy(conn, target)
}

// through dials the relay by a proxy.
func through(ctx context.Context, relay identity.RelayURL, p *neturl.URL) (*relayclient.Client, error) {
	return relayclient.Dial(ctx, relayclient.Config{
		URL: relay, Key: identity.GenerateSecretKey(), Proxy: func(*neturl.URL) *neturl.URL { return p },
	})
}

func TestThroughProxy(t *testing.T) {
	r := relaytest.Start(t, relayserver.Config{})
	asked := ""
	p := proxy(t, func(req *http.Request) string {
		asked = req.Method + " " + req.Host + " " + req.Header.Get("Proxy-Authorization")
		return ""
	})
	p.User = neturl.UserPassword("ann", "s3cret")
	c, err := through(t.Context(), r.URL, p)
	if err != nil {
		t.Fatal(err)
	}
	run(t, c, newRecorder())
	for !c.Established() {
		time.Sleep(time.Millisecond)
	}
	if want := "CONNECT " + r.Server.Addr().String() + " Basic YW5uOnMzY3JldA=="; asked != want {
		t.Errorf("asked %q, want %q", asked, want)
	}
}

func TestProxyRefuses(t *testing.T) {
	relay := relaytest.Start(t, relayserver.Config{}).URL
	tests := map[string]struct{ answer, want string }{
		"authentication": {"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", "407"},
		"forbidden":      {"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "403"},
		"no HTTP":        {"SSH-2.0-OpenSSH\r\n\r\n", "malformed"},
		"endless head":   {"HTTP/1.1 200 OK\r\n" + strings.Repeat("X-A: b\r\n", 10_000), ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := proxy(t, func(*http.Request) string { return test.answer })
			_, err := through(t.Context(), relay, p)
			if !errors.Is(err, relayclient.ErrProxy) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v", err)
			}
		})
	}
}

// A proxy that says nothing holds nobody up for longer than the context.
func TestProxyHangs(t *testing.T) {
	p := proxy(t, func(*http.Request) string { return "HTTP/1.1" })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := through(ctx, relaytest.Start(t, relayserver.Config{}).URL, p); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// The proxy is asked for the host as everybody writes it, without the dot of the root.
func TestProxyIsAskedWithoutTheRoot(t *testing.T) {
	r := relaytest.Start(t, relayserver.Config{})
	url, err := identity.ParseRelayURL(fmt.Sprintf("http://localhost.:%d/", portOf(r.Server.Addr())))
	if err != nil {
		t.Fatal(err)
	}
	asked := ""
	p := proxy(t, func(req *http.Request) string { asked = req.Host; return "" })
	c, err := through(t.Context(), url, p)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if want := fmt.Sprintf("localhost:%d", portOf(r.Server.Addr())); asked != want {
		t.Errorf("asked for %q, want %q", asked, want)
	}
}

// serveSOCKS speaks RFC 1928 and 1929 with one client that says who it is, and returns
// what was asked for.
func serveSOCKS(conn net.Conn, user, password string) (asked string, err error) {
	br := bufio.NewReader(conn)
	take := func(n int) []byte {
		b := make([]byte, n)
		if _, e := io.ReadFull(br, b); e != nil {
			err = cmp.Or(err, e)
		}
		return b
	}
	head := take(2)
	if methods := take(int(head[1])); head[0] != 5 || !bytes.Contains(methods, []byte{2}) {
		return "", fmt.Errorf("greeting %x %x", head, methods)
	}
	_, _ = conn.Write([]byte{5, 2})
	take(1)
	gotUser := take(int(take(1)[0]))
	gotPassword := take(int(take(1)[0]))
	if string(gotUser) != user || string(gotPassword) != password {
		_, _ = conn.Write([]byte{1, 1})
		return "", errors.New("wrong password")
	}
	_, _ = conn.Write([]byte{1, 0})
	request := take(4)
	if request[1] != 1 || request[3] != 3 {
		return "", fmt.Errorf("request %x", request)
	}
	host := string(take(int(take(1)[0])))
	port := binary.BigEndian.Uint16(take(2))
	if err != nil {
		return "", err
	}
	asked = fmt.Sprintf("%s:%d", host, port)
	target, err := net.Dial("tcp", asked)
	if err != nil {
		_, _ = conn.Write([]byte{5, 5, 0, 1, 0, 0, 0, 0, 0, 0})
		return asked, err
	}
	_, _ = conn.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	go func() { _, _ = io.Copy(target, br); target.Close() }()
	go func() { _, _ = io.Copy(conn, target); conn.Close() }()
	return asked, nil
}

func TestThroughSOCKS(t *testing.T) {
	r := relaytest.Start(t, relayserver.Config{})
	url, err := identity.ParseRelayURL(fmt.Sprintf("http://localhost.:%d/", portOf(r.Server.Addr())))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, tc := range []struct {
		scheme, password string
		ok               bool
	}{{"socks5", "s3cret", true}, {"socks5h", "s3cret", true}, {"socks5", "wrong", false}} {
		t.Run(tc.scheme+" "+tc.password, func(t *testing.T) {
			asked := make(chan string, 1)
			go func() {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				text, err := serveSOCKS(conn, "ann", "s3cret")
				if err != nil {
					conn.Close()
				}
				asked <- text
			}()
			c, err := through(t.Context(), url, &neturl.URL{Scheme: tc.scheme, Host: l.Addr().String(), User: neturl.UserPassword("ann", tc.password)})
			if !tc.ok {
				if !errors.Is(err, relayclient.ErrProxy) {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			run(t, c, newRecorder())
			for !c.Established() {
				time.Sleep(time.Millisecond)
			}
			if got, want := <-asked, fmt.Sprintf("localhost:%d", portOf(r.Server.Addr())); got != want {
				t.Errorf("asked for %q, want %q", got, want)
			}
		})
	}
}

func portOf(a net.Addr) int { return a.(*net.TCPAddr).Port }

// A proxy that is not there keeps nobody from a relay that is.
func TestProxyIsNotThere(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for _, scheme := range []string{"http", "socks5"} {
		c, err := through(t.Context(), relaytest.Start(t, relayserver.Config{}).URL, &neturl.URL{Scheme: scheme, Host: closed.Addr().String()})
		if err != nil {
			t.Errorf("%s: %v", scheme, err)
			continue
		}
		c.Close()
	}
}
