package metrics

import (
	"context"
	"io"
	"net"
	"net/http"
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
		done <- Serve(ctx, l, func() []Metric {
			n++
			return []Metric{
				Counter("test_things", n, "things seen"),
				Gauge("test_paths", 2, "paths now").With("kind", "direct"),
				Gauge("test_paths", 1, "paths now").With("kind", "relay"),
			}
		})
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
