package mdns

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// bind makes a socket that gets what is sent to the group, and nothing else: programs that
// want the port at an address of this host, as DNS servers do, have it. Package net would
// bind all addresses. A group of IPv6 is that of a link.
func bind(control func(network, address string, c syscall.RawConn) error, group netip.AddrPort, link int) (net.PacketConn, error) {
	family, network := unix.AF_INET, "udp4"
	var at unix.Sockaddr = &unix.SockaddrInet4{Port: int(group.Port())}
	if ip := group.Addr(); ip.Is4() {
		at.(*unix.SockaddrInet4).Addr = ip.As4()
	} else {
		family, network = unix.AF_INET6, "udp6"
		at = &unix.SockaddrInet6{Port: int(group.Port()), Addr: ip.As16(), ZoneId: uint32(link)}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("mdns: socket: %w", err)
	}
	file := os.NewFile(uintptr(fd), "mdns")
	defer file.Close() // FilePacketConn has one of its own
	for _, option := range []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, 1); err != nil {
			return nil, fmt.Errorf("mdns: share the port: %w", err)
		}
	}
	if control != nil {
		raw, err := file.SyscallConn()
		if err == nil {
			err = control(network, group.String(), raw)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := unix.Bind(fd, at); err != nil {
		return nil, fmt.Errorf("mdns: UDP port %d: %w", group.Port(), err)
	}
	return net.FilePacketConn(file)
}
