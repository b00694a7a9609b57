package portmap

import (
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// ListenGroup opens a UDP socket that hears a multicast group on the interface
// with the address self, beside others that do. It is bound to the group, not to
// all addresses, so that packets to this host alone go to other programs that
// listen on the same port.
func ListenGroup(group netip.AddrPort, self netip.Addr) (*net.UDPConn, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	file := os.NewFile(uintptr(fd), "multicast "+group.String())
	defer file.Close() // FilePacketConn works on a duplicate
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return nil, fmt.Errorf("share port %d: %w", group.Port(), err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(group.Port()), Addr: group.Addr().As4()}); err != nil {
		return nil, fmt.Errorf("bind to %v: %w", group, err)
	}
	member := unix.IPMreq{Multiaddr: group.Addr().As4(), Interface: self.As4()}
	if err := unix.SetsockoptIPMreq(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &member); err != nil {
		return nil, fmt.Errorf("join %v: %w", group, err)
	}
	conn, err := net.FilePacketConn(file)
	if err != nil {
		return nil, fmt.Errorf("multicast socket: %w", err)
	}
	return conn.(*net.UDPConn), nil
}
