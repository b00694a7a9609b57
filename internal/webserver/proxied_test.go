package webserver

import (
	"net/http"
	"net/netip"
	"testing"
)

func TestClientOf(t *testing.T) {
	proxies, err := ParsePrefixes([]string{"10.0.0.0/8", "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, remote string
		forwarded    []string
		want         string
	}{
		{"nobody in between", "203.0.113.5:1000", nil, "203.0.113.5"},
		{"a client that claims to be another", "203.0.113.5:1000", []string{"198.51.100.7"}, "203.0.113.5"},
		{"one proxy", "127.0.0.1:1000", []string{"198.51.100.7"}, "198.51.100.7"},
		{"a client that claims something to the proxy", "127.0.0.1:1000", []string{"192.0.2.66, 198.51.100.7"}, "198.51.100.7"},
		{"two proxies", "127.0.0.1:1000", []string{"198.51.100.7", "10.1.2.3"}, "198.51.100.7"},
		{"IPv6, and a port", "127.0.0.1:1000", []string{"[2001:db8::7]:4711"}, "2001:db8::7"},
		{"nonsense", "127.0.0.1:1000", []string{"unknown"}, "127.0.0.1"},
		{"the proxy itself", "127.0.0.1:1000", nil, "127.0.0.1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := &http.Request{RemoteAddr: tc.remote, Header: http.Header{"X-Forwarded-For": tc.forwarded}}
			if got := proxies.ClientOf(r); got != netip.MustParseAddr(tc.want) {
				t.Errorf("got %v, want %s", got, tc.want)
			}
		})
	}
}

func TestParsePrefixes(t *testing.T) {
	for _, bad := range []string{"", "proxy.example", "10.0.0.0/33", "10.0.0.1:80"} {
		if list, err := ParsePrefixes([]string{bad}); err == nil {
			t.Errorf("%q: %v", bad, list)
		}
	}
}
