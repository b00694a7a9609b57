package daemon

import (
	"testing"

	"github.com/nodetun/nodetun/internal/config"
)

func TestDiscoveryServers(t *testing.T) {
	for _, tc := range []struct{ setting, server, origin string }{
		{"", "https://dns.iroh.link/pkarr", "dns.iroh.link"},
		{"none", "", ""},
		{"https://discovery.example.com", "https://discovery.example.com/pkarr", "discovery.example.com"},
		{"https://discovery.example.com./", "https://discovery.example.com./pkarr", "discovery.example.com"},
		{"https://relay.pkarr.example/some/path", "https://relay.pkarr.example/some/path", "relay.pkarr.example"},
		{"https://discovery.example.com:8443", "https://discovery.example.com:8443/pkarr", "discovery.example.com"},
		{"http://192.0.2.1:8080", "http://192.0.2.1:8080/pkarr", ""},
		{"https://192.0.2.1", "https://192.0.2.1/pkarr", ""},
		{"https://localhost:8443", "https://localhost:8443/pkarr", ""},
		{"http://discovery.example.com", "http://discovery.example.com/pkarr", ""},
	} {
		s := config.Settings{Discovery: tc.setting}
		server := packetServer(&s)
		if server != tc.server || dnsOrigin(server) != tc.origin {
			t.Errorf("%q: %q, %q, want %q, %q", tc.setting, server, dnsOrigin(server), tc.server, tc.origin)
		}
	}
}
