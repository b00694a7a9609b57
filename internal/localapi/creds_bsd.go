//go:build darwin || freebsd

package localapi

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// peerCredentials asks the kernel who connected (LOCAL_PEERCRED of unix(4)). It names 16
// groups at most, the primary one first.
func peerCredentials(conn *net.UnixConn) (credentials, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return credentials{}, err
	}
	var c credentials
	var inner error
	err = raw.Control(func(fd uintptr) {
		var cred *unix.Xucred
		if cred, inner = unix.GetsockoptXucred(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERCRED); inner != nil {
			return
		}
		c.uid = int(cred.Uid)
		for _, gid := range cred.Groups[:min(int(cred.Ngroups), len(cred.Groups))] {
			c.groups = append(c.groups, int(gid))
		}
	})
	return c, errors.Join(err, inner)
}
