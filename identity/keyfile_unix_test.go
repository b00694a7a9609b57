//go:build unix

package identity

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"
)

// A named pipe in place of the key does not make the daemon wait for ever.
func TestLoadSecretKeyPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret.key")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Skip("no named pipes here: ", err)
	}
	if _, err := LoadSecretKey(path); !errors.Is(err, ErrBadKeyFile) {
		t.Errorf("%v, want %v", err, ErrBadKeyFile)
	}
}
