package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// ErrLocked says that another daemon uses the state directory.
var ErrLocked = errors.New("already running")

// lockWait is how long LockState waits for a daemon that is about to end.
const lockWait = time.Second

// LockState makes this process the one daemon of a state directory, which must
// exist, until unlock is called or the process ends. The error wraps ErrLocked
// when there is another.
func LockState(stateDir string) (unlock func(), err error) {
	file, err := openLock(filepath.Join(stateDir, "daemon.lock"))
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(lockWait); ; {
		taken, err := tryLock(file)
		switch {
		case err != nil:
			file.Close()
			return nil, fmt.Errorf("lock %s: %w", file.Name(), err)
		case taken:
			return func() { file.Close() }, nil
		case time.Now().After(deadline):
			file.Close()
			return nil, fmt.Errorf("%w: another daemon uses %s (try: nodetun down)", ErrLocked, stateDir)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// lockFile waits until nobody else holds the lock. It is held for the time of
// one small write.
func lockFile(path string) (unlock func(), err error) {
	file, err := openLock(path)
	if err != nil {
		return nil, err
	}
	if err := waitLock(file); err != nil {
		file.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { file.Close() }, nil
}

func openLock(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
}
