//go:build !linux

package routing

import (
	"context"
	"fmt"
	"net"
	"net/netip"
)

type hostState struct{}

// Apply returns ErrNotSupported on this system.
func (h *Host) Apply() error { return ErrNotSupported }

// Run returns ErrNotSupported on this system.
func (h *Host) Run(context.Context) error { return ErrNotSupported }

// Undo does nothing on this system.
func (h *Host) Undo() error { return nil }

// IPv6 is not looked at on this system.
func (h *Host) IPv6() bool { return true }

// HostNetworks lists the prefixes of this host's addresses, without those of
// the link named exclude. Routes are not looked at on this system.
func HostNetworks(exclude string) (Networks, error) {
	links, err := net.Interfaces()
	if err != nil {
		return Networks{}, fmt.Errorf("routing: list links: %w", err)
	}
	var list []netip.Prefix
	for _, link := range links {
		if link.Name == exclude {
			continue
		}
		addrs, err := link.Addrs()
		if err != nil {
			return Networks{}, fmt.Errorf("routing: list addresses: %w", err)
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				list = append(list, p.Masked())
			}
		}
	}
	return Networks{Used: list}, nil
}

// CleanUp has nothing to do on this system.
func CleanUp() error { return nil }

// LinkTo knows nothing on this system.
func LinkTo(netip.Addr) string { return "" }
