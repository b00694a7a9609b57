//go:build !linux

package mdns

import (
	"context"
	"net"
	"net/netip"
	"syscall"
)

// bind makes a socket that shares the port: package net asks for that when it listens at the
// group.
func bind(control func(network, address string, c syscall.RawConn) error) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: control}
	return lc.ListenPacket(context.Background(), "udp4", netip.AddrPortFrom(group, port).String())
}
