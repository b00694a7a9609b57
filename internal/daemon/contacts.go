package daemon

import (
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"

	"github.com/nodetun/nodetun/dnsmap"
	"github.com/nodetun/nodetun/routing"
)

// contact is an address that this host was told to talk to, outside the tunnel.
type contact struct {
	addr netip.Addr
	what string
}

// contacts lists all that are known by address.
func (d *Daemon) contacts() []contact {
	var list []contact
	add := func(host, what string) {
		if addr, err := netip.ParseAddr(host); err == nil {
			list = append(list, contact{addr.Unmap().WithZone(""), what})
		}
	}
	for _, server := range dnsmap.HostServers() {
		add(server, "the DNS server")
	}
	for _, server := range dhcpServers() {
		add(server, "the DHCP server")
	}
	s := &d.cfg.Settings
	for _, url := range relaysOf(s) {
		add(url.Parsed().Hostname(), "the relay")
	}
	for _, server := range s.STUN {
		if at, err := netip.ParseAddrPort(server); err == nil {
			add(at.Addr().String(), "the STUN server")
		}
	}
	for _, p := range d.proxies.Sources() {
		if u, err := url.Parse(p.URL); err == nil {
			add(u.Hostname(), "the proxy")
		}
	}
	for _, p := range d.allPeers() {
		for _, at := range p.Addrs {
			name := p.Name
			if name == "" {
				name = p.ID.Short()
			}
			add(at.Addr().String(), name+"'s address")
		}
	}
	return list
}

// leases are the files in which DHCP clients keep what they were told, and
// leaseServer finds the server in them.
var (
	leases      = []string{"/run/systemd/netif/leases/*", "/var/lib/dhcp/*.leases", "/var/lib/NetworkManager/*.lease"}
	leaseServer = regexp.MustCompile(`(?m)^\s*(?:SERVER_ADDRESS=|option dhcp-server-identifier )([0-9.]+)`)
)

func dhcpServers() []string {
	var list []string
	for _, pattern := range leases {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			content, _ := os.ReadFile(path)
			for _, match := range leaseServer.FindAllSubmatch(content, -1) {
				list = append(list, string(match[1]))
			}
		}
	}
	return list
}

// poolHealth names what the tunnel took from this host.
func (d *Daemon) poolHealth(warn func(what, fix string)) {
	if !d.pool.IsValid() {
		return
	}
	named := make(map[netip.Addr]bool)
	for _, c := range d.contacts() {
		if named[c.addr] || !d.pool.Contains(c.addr) || routing.LinkTo(c.addr) != d.link.Name() {
			continue
		}
		named[c.addr] = true
		warn(fmt.Sprintf("%s %s is not reached: it lies in %s, the IPv4 addresses of the tunnel", c.what, c.addr, d.pool),
			"restart nodetun, which then takes other addresses; if ipv4_pool is set, set it to a prefix that this host does not use")
	}
}
