package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"

	"github.com/nodetun/nodetun/dnsmap"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/config"
	"github.com/nodetun/nodetun/routing"
)

// Plan tells what a start with these settings would change on this host, one thing a line. It
// changes nothing itself.
func Plan(s *config.Settings, stateDir, socket string) ([]string, error) {
	var list []string
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	key, err := identity.LoadSecretKey(KeyPath(stateDir))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		add("make the key of this node in %s", KeyPath(stateDir))
		key = nil
	case err != nil:
		return nil, err
	}
	add("keep its files in %s", stateDir)
	add("take commands on %s", socket)
	if len(s.Bind) == 0 {
		add("use UDP port %s on all addresses", portText(s.Port))
	}
	for _, at := range s.Bind {
		port := at.Port()
		if port == 0 {
			port = s.Port
		}
		add("use UDP port %s on %s", portText(port), at.Addr())
	}
	taken, err := routing.HostNetworks(s.TUN)
	if err != nil {
		return nil, fmt.Errorf("list the networks of this host: %w", err)
	}
	o := &Offline{StateDir: stateDir, Settings: *s}
	good := o.remembered()
	pool, err := choosePool(s.IPv4Pool, good.Pool, taken)
	if err != nil && s.IPv4Pool != "" {
		return nil, err
	}
	add("make the network interface %s", s.TUN)
	prefixes := []netip.Prefix{routing.Prefix6()}
	if pool.IsValid() {
		prefixes = append(prefixes, pool)
	}
	if key != nil {
		self := routing.NewTable(key.NodeID(), pool, good.IPv4).Self()
		add("give it the addresses %s", strings.TrimSpace(self.V6.String()+" "+addrText(self.V4)))
	} else {
		add("give it an address of each of the networks below, which follows from the key")
	}
	for _, p := range prefixes {
		add("route %s to it", p)
	}
	add("drop what comes in for these addresses, or from these networks, by any other interface (nftables)")
	return append(list, planDNS(s)...), nil
}

func portText(port uint16) string {
	if port == 0 {
		return "(any free one)"
	}
	return fmt.Sprint(port)
}

// addrText is empty for no address.
func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// planDNS tells of names.
func planDNS(s *config.Settings) []string {
	mode, err := dnsmap.ParseMode(s.DNS)
	if err != nil {
		return []string{"change no DNS settings: " + err.Error()}
	}
	at := netip.AddrPortFrom(netip.MustParseAddr(resolverAddr), 53)
	host, err := dnsmap.NewHost(dnsmap.HostConfig{Mode: mode, Link: s.TUN, Zone: s.Zone, Server: at})
	if err != nil {
		return []string{"change no DNS settings: " + err.Error()}
	}
	list := []string{fmt.Sprintf("answer questions about names in %s on %s", s.Zone, at)}
	switch host.Would() {
	case dnsmap.ModeResolved:
		return append(list, "tell systemd-resolved to ask there about "+s.Zone)
	case dnsmap.ModeFile, dnsmap.ModeNetworkManager, dnsmap.ModeResolvconf:
		return append(list, "add marked lines to /etc/resolv.conf, so that programs ask there first (to leave the file alone: --dns none)")
	default:
		return append(list, "change no DNS settings of this host: names in "+s.Zone+" resolve for who asks there")
	}
}
