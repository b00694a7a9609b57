package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"net/url"
	"strings"

	"github.com/nodetun/nodetun/discovery/dht"
	"github.com/nodetun/nodetun/discovery/dns"
	"github.com/nodetun/nodetun/dnsmap"
	"github.com/nodetun/nodetun/internal/config"
	"github.com/nodetun/nodetun/internal/localapi"
	"github.com/nodetun/nodetun/internal/proxies"
	"github.com/nodetun/nodetun/relay"
)

// hostsOf lists every host that a node with these settings and peers contacts by itself,
// and why. Relays that peers use, and that they or discovery name, come on top.
func hostsOf(s *config.Settings, peers []config.Peer, p *proxies.Proxies) []localapi.HostUse {
	list := []localapi.HostUse{}
	add := func(host, by, why, setting string) {
		list = append(list, localapi.HostUse{Host: strings.TrimSuffix(host, "."), By: by, Why: why, Setting: setting})
	}
	for _, used := range p.Sources() {
		add(used.URL, "TCP", "the proxy by which relays and discovery are reached", used.From)
	}
	for _, r := range relaysOf(s) {
		u := r.Parsed()
		by := fmt.Sprintf("%s, UDP %d, ICMP", u.Scheme, relay.DefaultSTUNPort)
		if u.Scheme == "https" {
			by += ", http" // whether a login page answers in its place
		}
		add(u.Host, by, "a relay: carries what finds no direct path, tells how this machine is seen from outside; how far it is, is measured", "relays")
	}
	for _, server := range s.STUN {
		add(server, "UDP", "tells this machine how it is seen from outside (STUN)", "stun")
	}
	if server := packetServer(s); server != "" {
		why := "is asked where nodes are"
		if s.Publish != "none" {
			why += "; is told this node's relay"
			if s.Publish == "all" {
				why += " and public addresses"
			}
		}
		if u, err := url.Parse(server); err == nil {
			add(u.Host, u.Scheme, why, "discovery, publish")
		}
		if origin := dnsOrigin(server); origin != "" {
			add("_iroh.*."+origin, "DNS", "is asked where nodes are, by way of the DNS servers below", "discovery")
		}
	}
	for _, server := range dnsServers() {
		add(server, "UDP and TCP 53", "names of the hosts above", "/etc/resolv.conf")
	}
	if s.MDNS {
		add("224.0.0.251, ff02::fb", "UDP 5353", "nodes on the links of this host are asked where they are, and told where this one is", "mdns")
	}
	if s.DHT {
		why := "the Mainline DHT, and whoever is in it: asked where nodes are"
		if s.Publish != "none" {
			why += "; told what discovery is told"
		}
		for _, host := range dht.Bootstrap {
			add(host, "UDP", why, "dht")
		}
	}
	if s.Portmap {
		add("the default gateway", "UDP 5351, 1900 and the port that it names", "maps a port for this node (PCP, NAT-PMP, UPnP)", "portmap")
	}
	for _, peer := range peers {
		for _, addr := range peer.Addrs {
			add(addr.String(), "UDP", "the peer "+peer.Label(), "peers.toml")
		}
		if !peer.Relay.IsZero() {
			u := peer.Relay.Parsed()
			add(u.Host, u.Scheme, "the relay of the peer "+peer.Label(), "peers.toml")
		}
	}
	return list
}

// dnsServers are the servers that this host asks for names, without this node's own.
func dnsServers() (list []string) {
	for _, server := range dnsmap.HostServers() {
		if ip, err := netip.ParseAddr(server); err == nil {
			list = append(list, ip.String())
		}
	}
	if len(list) == 0 {
		for _, server := range dns.Public() {
			list = append(list, server.Addr().String())
		}
	}
	return list
}

// Hosts implements localapi.Backend.
func (d *Daemon) Hosts(context.Context) ([]localapi.HostUse, error) {
	return hostsOf(&d.cfg.Settings, d.allPeers(), d.proxies), nil
}

// Hosts implements localapi.Backend.
func (o *Offline) Hosts(context.Context) ([]localapi.HostUse, error) {
	peers, err := config.NewPeers(o.StateDir).Load()
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		return nil, err
	}
	return hostsOf(&o.Settings, peers, proxies.New(o.Settings.Proxy)), nil
}
