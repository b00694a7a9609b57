package daemon

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/nodetun/nodetun/internal/config"
	"github.com/nodetun/nodetun/internal/proxies"
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

// Nothing is contacted that is not in the list, and what is switched off is not in it.
func TestHostsOf(t *testing.T) {
	list := func(s config.Settings, peers ...config.Peer) string {
		var b strings.Builder
		for _, h := range hostsOf(&s, peers, proxies.New(s.Proxy)) {
			if h.Setting != "/etc/resolv.conf" {
				fmt.Fprintln(&b, h.Host, h.By, h.Setting)
			}
		}
		return b.String()
	}
	standard := list(config.Default())
	for _, host := range []string{"use1-1.relay.n0.iroh.link https, UDP 3478, ICMP, http relays", "stun.cloudflare.com:3478 UDP stun", "dns.iroh.link https discovery, publish", "_iroh.*.dns.iroh.link DNS discovery", "the default gateway"} {
		if !strings.Contains(standard, host) {
			t.Errorf("%q is missing:\n%s", host, standard)
		}
	}
	s := config.Default()
	for key, value := range map[string]any{"relays": []any{"none"}, "stun": []any{}, "discovery": "none", "portmap": false, "mdns": false, "proxy": "http://u:secret@10.0.0.1:3128"} {
		if err := s.Set(key, value); err != nil {
			t.Fatal(err)
		}
	}
	peer := config.Peer{ID: newID(), Name: "nas", Addrs: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.7:41820")}}
	if got, want := list(s, peer), "http://u@10.0.0.1:3128 TCP nodetun.toml\n192.0.2.7:41820 UDP peers.toml\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
