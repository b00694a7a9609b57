package config

import (
	"os"
	"path/filepath"
	"strconv"
)

// holds reports whether a process has a file open: a number in a file may be that of
// a process that is long gone, and of another one now.
func holds(pid int, path string) bool {
	want, err := os.Stat(path)
	if err != nil {
		return false
	}
	open, _ := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "fd", "*"))
	for _, fd := range open {
		if info, err := os.Stat(fd); err == nil && os.SameFile(info, want) {
			return true
		}
	}
	return false
}
