//go:build unix

package dnsmap

import (
	"io/fs"
	"os"
	"syscall"
)

// keepOwner gives a file the owner of the one it replaced, if we may.
func keepOwner(path string, old fs.FileInfo) {
	if st, ok := old.Sys().(*syscall.Stat_t); ok {
		_ = os.Lchown(path, int(st.Uid), int(st.Gid))
	}
}
