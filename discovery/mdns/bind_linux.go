package mdns

import (
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// bind makes a socket that gets what is sent to the group, and nothing else: programs that
// want the port at an address of this host, as DNS servers do, have it. Package net would
// bind all addresses.
func bind(control func(network, address string, c syscall.RawConn) error) (net.PacketConn, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
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
			err = control("udp4", group.String(), raw)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: group.As4(), Port: port}); err != nil {
		return nil, fmt.Errorf("mdns: UDP port %d: %w", port, err)
	}
	return net.FilePacketConn(file)
}
