//go:build linux

package hosttest

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/nodetun/nodetun/magicsock/portmap/portmaptest"
)

// servePortMapping answers PCP at the router's address inside until the test
// ends. A port that is mapped lets in what comes from anybody.
func (r *Router) servePortMapping(t testing.TB) {
	t.Helper()
	r.NS.Nft(t, fmt.Sprintf(`table ip portmap {
  map ports { type inet_service : ipv4_addr . inet_service; }
  chain prerouting {
    type nat hook prerouting priority -101
    iifname %q ip daddr %s dnat to udp dport map @ports
  }
}
`, r.Outside, r.WAN))
	change := func(verb, element string) error {
		if out, err := r.NS.Try("nft", verb, "element", "ip", "portmap", "ports", "{ "+element+" }"); err != nil {
			return fmt.Errorf("%w: %s", err, strings.TrimSpace(out))
		}
		return nil
	}
	r.NS.Do(t, func() {
		server, err := portmaptest.Start(portmaptest.Options{
			Addr: netip.MustParseAddr(r.gateway), External: netip.MustParseAddr(r.WAN), PCP: true,
			Map: func(internal netip.AddrPort, external uint16) error {
				return change("add", fmt.Sprintf("%d : %s . %d", external, internal.Addr(), internal.Port()))
			},
			Unmap: func(_ netip.AddrPort, external uint16) {
				_ = change("delete", fmt.Sprint(external)) // it is gone with the router at the latest
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(server.Close)
	})
}
