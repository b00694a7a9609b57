package daemon

import (
	"os"

	"golang.org/x/sys/unix"
)

// mayConfigureNetwork reports whether the process is root or has CAP_NET_ADMIN
// (capabilities(7)).
func mayConfigureNetwork() bool {
	if os.Geteuid() == 0 {
		return true
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_NET_ADMIN) != 0
}
