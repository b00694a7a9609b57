package config

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// tryLock takes the lock on an open file unless another process has it. It ends
// when the file is closed.
func tryLock(file *os.File) (bool, error) {
	err := lockFileEx(file, windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY)
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return false, nil
	}
	return err == nil, err
}

// waitLock is tryLock that waits.
func waitLock(file *os.File) error { return lockFileEx(file, windows.LOCKFILE_EXCLUSIVE_LOCK) }

func lockFileEx(file *os.File, flags uint32) error {
	return windows.LockFileEx(windows.Handle(file.Fd()), flags, 0, 1, 0, new(windows.Overlapped))
}
