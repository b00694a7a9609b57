package localapi

import (
	"errors"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// peerCredentials asks the kernel who connected.
func peerCredentials(conn *net.UnixConn) (credentials, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return credentials{}, err
	}
	var c credentials
	var inner error
	err = raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); inner != nil {
			return
		}
		c.uid = int(cred.Uid)
		c.groups = append(peerGroups(int(fd)), int(cred.Gid))
	})
	return c, errors.Join(err, inner)
}

// maxGroups is the kernel's own limit.
const maxGroups = 65536

// peerGroups asks for the supplementary groups, which the kernel noted when the
// peer connected. Kernels before 4.13 know none.
func peerGroups(fd int) []int {
	for n := 64; n <= maxGroups; n *= 4 {
		gids := make([]uint32, n)
		size := uint32(n * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&gids[0])), uintptr(unsafe.Pointer(&size)), 0)
		if errno == unix.ERANGE {
			continue
		}
		if errno != 0 {
			return nil
		}
		groups := make([]int, 0, size/4)
		for _, gid := range gids[:size/4] {
			groups = append(groups, int(gid))
		}
		return groups
	}
	return nil
}
