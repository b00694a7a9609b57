package discovery

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/nodetun/nodetun/identity"
)

// Label is the name under which the records of a node stand, below its own:
// _iroh.<z-base-32 of the NodeID>.<origin>.
const Label = "_iroh"

// MaxDirect is how many addresses of one answer are taken (S27).
const MaxDirect = 16

// Records returns the texts of the TXT records that say where a node is, as iroh-net
// writes them, a text per record:
//
//	relay=URL
//	addr=ip:port, once for each address, IPv4 first
func Records(addr identity.NodeAddr) []string {
	var list []string
	if !addr.Relay.IsZero() {
		list = append(list, "relay="+addr.Relay.String())
	}
	direct := slices.Clone(addr.Direct[:min(len(addr.Direct), MaxDirect)])
	slices.SortFunc(direct, netip.AddrPort.Compare)
	for _, a := range slices.Compact(direct) {
		list = append(list, "addr="+a.String())
	}
	return list
}

// ParseRecords reads the texts of the TXT records of a node: the first relay that can be
// read, and at most MaxDirect addresses. What it does not understand it leaves out.
func ParseRecords(id identity.NodeID, texts []string) identity.NodeAddr {
	addr := identity.NodeAddr{ID: id}
	for _, text := range texts {
		switch key, value, _ := strings.Cut(text, "="); key {
		case "relay":
			if url, err := identity.ParseRelayURL(value); err == nil && addr.Relay.IsZero() {
				addr.Relay = url
			}
		case "addr":
			if a, err := netip.ParseAddrPort(value); err == nil && len(addr.Direct) < MaxDirect && !slices.Contains(addr.Direct, a) {
				addr.Direct = append(addr.Direct, a)
			}
		}
	}
	return addr
}
