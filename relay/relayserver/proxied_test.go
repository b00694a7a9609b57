package relayserver

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/webserver"
	"github.com/nodetun/nodetun/relay"
)

// ask sends bytes, which may begin with a PROXY header, and an upgrade, and returns the
// answer.
func ask(t *testing.T, s *Server, first string, header string) *http.Response {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintf(conn, "%sGET /relay HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %s\r\n%s\r\n", first, upgradeProtocol, header); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	return response
}

// Clients behind a proxy are limited each by its own network, and who is too much reads
// why.
func TestLimitBehindProxy(t *testing.T) {
	for name, client := range map[string]func(addr string) (first, header string){
		"PROXY 1": func(addr string) (string, string) { return "PROXY TCP4 " + addr + " 192.0.2.1 4711 443\r\n", "" },
		"PROXY 2": func(addr string) (string, string) {
			ip := netip.MustParseAddr(addr).As4()
			return "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + string(ip[:]) + "\xc0\x00\x02\x01\x12\x67\x01\xbb", ""
		},
		"X-Forwarded-For": func(addr string) (string, string) { return "", "X-Forwarded-For: " + addr + "\r\n" },
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, Config{Limits: Limits{ConnsPerPrefix: 2}, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
			try := func(addr string) *http.Response {
				first, header := client(addr)
				return ask(t, s, first, header)
			}
			for _, addr := range []string{"198.51.100.1", "198.51.100.2", "203.0.113.1", "203.0.113.2"} {
				if r := try(addr); r.StatusCode != http.StatusSwitchingProtocols {
					t.Errorf("%s: %s", addr, r.Status)
				}
			}
			if r := try("198.51.100.3"); r.StatusCode != http.StatusServiceUnavailable || r.Header.Get(relay.RefusalHeader) != tooMany {
				t.Errorf("the third of a network: %s %v", r.Status, r.Header)
			}
		})
	}
}

// The connection that is too much reads why, and those after many of them are closed.
func TestTooManyConnectionsAreTold(t *testing.T) {
	s := start(t, Config{Limits: Limits{ConnsPerPrefix: 2}})
	for range 2 {
		if r := ask(t, s, "", ""); r.StatusCode != http.StatusSwitchingProtocols {
			t.Fatal(r.Status)
		}
	}
	if r := ask(t, s, "", ""); r.StatusCode != http.StatusServiceUnavailable || r.Header.Get(relay.RefusalHeader) != tooMany {
		t.Errorf("%s %v", r.Status, r.Header)
	}
	open := 0
	for range 3 * webserver.MaxTold {
		conn, err := net.Dial("tcp", s.Addr().String())
		if errors.Is(err, syscall.ECONNRESET) { // as those are closed that come too fast, sometimes before Dial returns
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		var ne net.Error
		if _, err := conn.Read(make([]byte, 1)); errors.As(err, &ne) && ne.Timeout() {
			open++
		}
	}
	if open > webserver.MaxTold {
		t.Errorf("%d connections beyond the limit are open", open)
	}
}

// A header of the PROXY protocol counts from trusted proxies only.
func TestProxyHeaderOfAnybody(t *testing.T) {
	s := start(t, Config{})
	conn, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "PROXY TCP4 198.51.100.1 192.0.2.1 4711 443\r\nGET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
	if r, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || r.StatusCode != http.StatusBadRequest {
		t.Errorf("%v, %v", r, err)
	}
}

// A relay without a certificate may stand behind a proxy of its machine.
func TestPlainOnLoopback(t *testing.T) {
	for addr, want := range map[string]error{"127.0.0.1:0": nil, "[::1]:0": nil, "localhost:0": nil, ":0": ErrNoCertificate, "0.0.0.0:0": ErrNoCertificate, "192.0.2.1:80": ErrNoCertificate, "": ErrNoCertificate} {
		s, err := New(Config{Addr: addr, STUNAddr: "none", Access: Access{Mode: AccessEveryone}})
		if !errors.Is(err, want) {
			t.Errorf("%q: %v", addr, err)
		}
		if err == nil {
			s.Close()
		}
	}
}

// A node that answered a challenge before, and dials by a name that the relay does not
// know, is told what helps.
func TestLockOutSaysWhatHelps(t *testing.T) {
	for unknown, want := range map[string]string{
		"relay.test:443":                  "this relay does not know that it is called relay.test: start it with --host relay.test",
		"":                                "this relay wants its challenge answered",
		strings.Repeat("x", 300) + ":443": "this relay wants its challenge answered",
		"relay.test\r\nEvil: yes:443":     "this relay wants its challenge answered",
		"re\x1blay.test:443":              "start it with --host re",
	} {
		v := visitor{unknown: unknown}
		if got := v.challengeWanted(); !strings.Contains(got, want) || strings.ContainsAny(got, "\r\n\x1b") {
			t.Errorf("%q: %q", unknown, got)
		}
	}
}
