//go:build unix

package config

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// Lock holds a lock between processes. The kernel takes it back when the
// process dies.
type Lock struct{ file *os.File }

// ErrLocked means that another process holds the lock.
var ErrLocked = errors.New("locked by another process")

// TryLock takes the lock that the file at path stands for, made if need be. It
// wraps ErrLocked when another process holds it.
func TryLock(path string) (*Lock, error) { return lock(path, syscall.LOCK_EX|syscall.LOCK_NB) }

// waitLock takes the lock, after others if need be.
func waitLock(path string) (*Lock, error) { return lock(path, syscall.LOCK_EX) }

func lock(path string, how int) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err == nil {
		return &Lock{f}, nil
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = ErrLocked
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// Release gives the lock back. The file stays: removing it would let two
// processes hold locks of two files of one name.
func (l *Lock) Release() { l.file.Close() }
