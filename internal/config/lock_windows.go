package config

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/windows"
)

// Lock holds a lock between processes. The kernel takes it back when the
// process dies.
type Lock struct{ file *os.File }

// ErrLocked means that another process holds the lock.
var ErrLocked = errors.New("locked by another process")

// TryLock takes the lock that the file at path stands for, made if need be. It
// wraps ErrLocked when another process holds it.
func TryLock(path string) (*Lock, error) {
	return lock(path, windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY)
}

// waitLock takes the lock, after others if need be.
func waitLock(path string) (*Lock, error) { return lock(path, windows.LOCKFILE_EXCLUSIVE_LOCK) }

func lock(path string, how uint32) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = windows.LockFileEx(windows.Handle(f.Fd()), how, 0, 1, 0, new(windows.Overlapped))
	if err == nil {
		return &Lock{f}, nil
	}
	f.Close()
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		err = ErrLocked
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// Release gives the lock back.
func (l *Lock) Release() { l.file.Close() }
