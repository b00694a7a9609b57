//go:build !linux

package portmap

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// ListenGroup opens a UDP socket that hears a multicast group on the interface
// with the address self, beside others that do.
func ListenGroup(group netip.AddrPort, self netip.Addr) (*net.UDPConn, error) {
	list, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	for _, i := range list {
		addrs, err := i.Addrs()
		if err == nil && slices.ContainsFunc(addrs, func(a net.Addr) bool {
			n, ok := a.(*net.IPNet)
			return ok && n.IP.Equal(self.AsSlice())
		}) {
			return net.ListenMulticastUDP("udp4", &i, net.UDPAddrFromAddrPort(group))
		}
	}
	return nil, fmt.Errorf("no interface has %v", self)
}
