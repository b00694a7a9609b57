//go:build linux

package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/hosttest"
)

// says waits until `status` of the host says a text, or, if not wanted, no more.
func says(t *testing.T, h *hosttest.Host, text string, wanted bool) {
	t.Helper()
	hosttest.Eventually(t, 10*time.Second, "status", func() error {
		if out := h.Nodetun(t, "status"); strings.Contains(out, text) != wanted {
			return errors.New(out)
		}
		return nil
	})
}

// A firewall or a rule that takes the packets of the tunnel is named in `status`.
func TestNetnsSelfCheck(t *testing.T) {
	a := hosttest.New(t, "a")
	a.Configure(t, "ipv4_pool = \"100.100.0.0/16\"\n")
	a.Start(t, "--relay", "none", "--dns", "none", "--tun", "nt0")
	says(t, a, "does not work in the tunnel", false)
	nft := func(rule string) {
		a.NS.Run(t, "nft", "add table inet t; add chain inet t i { type filter hook input priority 0; }; "+
			"add chain inet t o { type filter hook output priority 0; }; add rule inet t "+rule)
	}
	for _, tc := range []struct{ rule, said string }{
		{`i ip saddr 100.64.0.0/10 iifname != "tailscale0" drop`,
			"IPv4 does not work in the tunnel: a firewall of this host drops what comes in by nt0 from 100.100.0.0/16, as Tailscale's rules do"},
		{`i meta nfproto ipv6 iifname nt0 drop`,
			"IPv6 does not work in the tunnel: a firewall of this host drops what comes in by nt0 from fd6e:6f64:6574::/48"},
		{`o ip daddr 100.100.0.0/16 drop`,
			"IPv4 does not work in the tunnel: a firewall of this host drops what goes out by nt0"},
	} {
		nft(tc.rule)
		says(t, a, tc.said, true)
		a.NS.Run(t, "nft", "delete table inet t")
		says(t, a, "does not work in the tunnel", false)
	}
	a.NS.Run(t, "ip", "link", "add", "other", "type", "bridge")
	a.NS.Run(t, "ip", "link", "set", "other", "up")
	a.NS.Run(t, "ip", "route", "add", "default", "dev", "other", "table", "77")
	a.NS.Run(t, "ip", "rule", "add", "to", "100.64.0.0/10", "table", "77", "pref", "10")
	says(t, a, "IPv4 does not work in the tunnel: packets for 100.100.0.0/16 leave by other instead of nt0", true)
	a.NS.Run(t, "ip", "rule", "del", "pref", "10")
	says(t, a, "does not work in the tunnel", false)
}

// The pool keeps away from the servers of this host; one that appears inside it later is
// named, and gone again with the next start.
func TestNetnsPoolAndServers(t *testing.T) {
	a := hosttest.New(t, "a")
	conf := filepath.Join("/etc/netns", a.NS.Name, "resolv.conf")
	resolver := func(addr string) {
		if err := os.WriteFile(conf, []byte("nameserver "+addr+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	resolver("198.18.3.3")
	a.Start(t, "--relay", "none", "--dns", "none", "--tun", "nt0")
	if ip := a.Status(t).Self.IPv4; !strings.HasPrefix(ip, "10.214.") {
		t.Errorf("own address %s", ip)
	}
	resolver("10.214.3.3")
	says(t, a, "the DNS server 10.214.3.3 is not reached: it lies in 10.214.0.0/16", true)
	if out, code := a.Try(t, "peer", "add", a.ID(t)[:51]+"a", "--addr", "10.214.5.5:41820"); code == 0 {
		t.Errorf("a peer inside the pool was taken:\n%s", out)
	}
	a.Stop(t)
	a.Start(t, "--relay", "none", "--dns", "none", "--tun", "nt0")
	says(t, a, "is not reached", false)
	if ip := a.Status(t).Self.IPv4; !strings.HasPrefix(ip, "198.18.") {
		t.Errorf("own address after a restart %s", ip)
	}
}
