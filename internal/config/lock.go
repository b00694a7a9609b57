package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrLocked says that another daemon uses the state directory.
var ErrLocked = errors.New("already running")

// lockWait is how long LockState waits for a daemon that is about to end.
const lockWait = time.Second

// LockState makes this process the one daemon of a state directory, which must
// exist, until unlock is called or the process ends. The error wraps ErrLocked
// when there is another. In a directory that cannot be written the lock is on what is
// there.
func LockState(stateDir string) (unlock func(), err error) {
	file, err := openLock(lockPath(stateDir))
	if errors.Is(err, syscall.EROFS) {
		if file, err = os.Open(lockPath(stateDir)); errors.Is(err, fs.ErrNotExist) {
			file, err = os.Open(stateDir)
		}
	}
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
			notePID(file)
			return func() {
				_ = file.Truncate(0) // nobody has it; may fail, as notePID may
				file.Close()
			}, nil
		case time.Now().After(deadline):
			file.Close()
			return nil, fmt.Errorf("%w: another daemon uses %s (try: nodetun down)", ErrLocked, stateDir)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func lockPath(stateDir string) string { return filepath.Join(stateDir, "daemon.lock") }

// notePID writes who has the lock into its file. It may fail: on a full disk.
func notePID(file *os.File) {
	if file.Truncate(0) == nil {
		_, _ = file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
}

// LockHolder returns the process of the daemon that has the lock of a state directory;
// 0 when that is not known. Call it when LockState says ErrLocked.
func LockHolder(stateDir string) (pid int) {
	b, err := os.ReadFile(lockPath(stateDir))
	if err != nil {
		return 0
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 || !holds(pid, lockPath(stateDir)) {
		return 0
	}
	return pid
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
