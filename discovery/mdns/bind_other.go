//go:build !linux

package mdns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
)

// bind makes a socket that shares the port: package net asks for that when it listens at the
// group. It does so for IPv4.
func bind(control func(network, address string, c syscall.RawConn) error, group netip.AddrPort, _ int) (net.PacketConn, error) {
	if !group.Addr().Is4() {
		return nil, errors.ErrUnsupported
	}
	lc := net.ListenConfig{Control: control}
	return lc.ListenPacket(context.Background(), "udp4", group.String())
}
