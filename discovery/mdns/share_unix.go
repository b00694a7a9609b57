//go:build unix

package mdns

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// share lets several programs have the port.
func share(c syscall.RawConn) error {
	var err error
	if controlErr := c.Control(func(fd uintptr) {
		err = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
	}); controlErr != nil {
		return controlErr
	}
	return err
}
