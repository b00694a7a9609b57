package relayclient_test

import (
	"bufio"
	"context"
	"errors"
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
		URL: relay, Key: identity.GenerateSecretKey(), Proxy: func(*neturl.URL) (*neturl.URL, error) { return p, nil },
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

func TestProxyFromEnvironment(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://proxy.example:3128")
	t.Setenv("HTTP_PROXY", "")
	t.Setenv("NO_PROXY", "inside.example")
	tests := map[string]string{
		"https://relay.example":  "http://proxy.example:3128",
		"https://inside.example": "",
		"http://relay.example":   "",
		"https://127.0.0.1:3340": "",
	}
	for text, want := range tests {
		u, err := neturl.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		got, err := relayclient.ProxyFromEnvironment(u)
		if err != nil || (got == nil) != (want == "") || got != nil && got.String() != want {
			t.Errorf("%s: %v, %v, want %q", text, got, err, want)
		}
	}
}
