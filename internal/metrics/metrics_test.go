package metrics

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(data)
}

func TestServe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := uint64(41)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- Serve(ctx, l, Options{Profiles: true, Gather: func() []Metric {
			n++
			return []Metric{
				Counter("test_things", n, "things seen"),
				Gauge("test_paths", 2, "paths now").With("kind", "direct"),
				Gauge("test_paths", 1, "paths now").With("kind", "relay"),
			}
		}})
	}()
	base := "http://" + l.Addr().String()
	for _, want := range []string{"42", "43"} {
		status, body := get(t, base+"/metrics")
		if status != http.StatusOK {
			t.Fatal(status, body)
		}
		for _, line := range []string{
			"# HELP test_things_total things seen", "# TYPE test_things_total counter", "test_things_total " + want,
			"# TYPE test_paths gauge", `test_paths{kind="direct"} 2`, `test_paths{kind="relay"} 1`, "go_goroutines ", "process_resident_memory_bytes ",
		} {
			if !strings.Contains(body, line) {
				t.Errorf("no %q in\n%s", line, body)
			}
		}
	}
	if status, body := get(t, base+"/debug/pprof/goroutine?debug=1"); status != http.StatusOK || !strings.Contains(body, "goroutine profile") {
		t.Errorf("profile: %d %.80q", status, body)
	}
	if status, _ := get(t, base+"/other"); status != http.StatusNotFound {
		t.Errorf("other page: %d", status)
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// S26: profiles are served if asked for, and for a minute at most; a web page whose name leads
// to this machine reads nothing.
func TestWhoIsServed(t *testing.T) {
	none := func() []Metric { return nil }
	for _, test := range []struct {
		name     string
		profiles bool
		to       string // the address of the listener
		host     string
		path     string
		want     int
	}{
		{"figures", false, "127.0.0.1", "127.0.0.1:9090", "/metrics", 200},
		{"by name", false, "127.0.0.1", "localhost:9090", "/metrics", 200},
		{"IPv6", false, "::1", "[::1]:9090", "/metrics", 200},
		{"no port", false, "::1", "[::1]", "/metrics", 200},
		{"rebinding", false, "127.0.0.1", "evil.example:9090", "/metrics", 403},
		{"rebinding, profiles", true, "::1", "evil.example", "/debug/pprof/heap", 403},
		{"like localhost", false, "127.0.0.1", "localhost.evil.example", "/metrics", 403},
		{"like an address", false, "127.0.0.1", "127.0.0.1.evil.example:9090", "/metrics", 403},
		{"public address", false, "192.0.2.1", "node.example:9090", "/metrics", 200},
		{"no profiles", false, "127.0.0.1", "127.0.0.1:9090", "/debug/pprof/", 404},
		{"no command line", false, "127.0.0.1", "127.0.0.1:9090", "/debug/pprof/cmdline", 404},
		{"profiles", true, "127.0.0.1", "127.0.0.1:9090", "/debug/pprof/heap", 200},
		{"long", true, "127.0.0.1", "127.0.0.1:9090", "/debug/pprof/trace?seconds=3600", 400},
		{"long, of the index", true, "127.0.0.1", "127.0.0.1:9090", "/debug/pprof/heap?seconds=61", 400},
		{"no number", true, "127.0.0.1", "127.0.0.1:9090", "/debug/pprof/profile?seconds=x", 400},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, test.path, nil)
			r.Host = test.host
			local := &net.TCPAddr{IP: net.ParseIP(test.to), Port: 9090}
			w := httptest.NewRecorder()
			Handler(Options{Gather: none, Profiles: test.profiles}).ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(local))))
			if w.Code != test.want {
				t.Errorf("%d %.60q, want %d", w.Code, w.Body, test.want)
			}
		})
	}
}
