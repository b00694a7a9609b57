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

// HostPrefixes lists the prefixes of this host's addresses, without those of
// the link named exclude. Routes are not looked at on this system.
func HostPrefixes(exclude string) ([]netip.Prefix, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("routing: list links: %w", err)
	}
	var list []netip.Prefix
	for _, link := range links {
		if link.Name == exclude {
			continue
		}
		addrs, err := link.Addrs()
		if err != nil {
			return nil, fmt.Errorf("routing: list addresses: %w", err)
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				list = append(list, p.Masked())
			}
		}
	}
	return list, nil
}
