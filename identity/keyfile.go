package identity

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/nodetun/nodetun/internal/filecheck"
	"github.com/nodetun/nodetun/internal/plaintext"
)

// Errors of key files. Messages name the file and say what to do.
var (
	// ErrBadKeyFile is wrapped when the file holds no secret key.
	ErrBadKeyFile = errors.New("holds no secret key")
)

// maxKeyFile bounds what is read; an OpenSSH key has about 400 bytes.
const maxKeyFile = 16 << 10

// LoadSecretKey reads a key file: the seed as base32 or hex, or an OpenSSH
// private key of type ed25519 without passphrase. The error wraps
// fs.ErrNotExist, ErrBadKeyFile, or one of internal/filecheck (S5).
func LoadSecretKey(path string) (*SecretKey, error) {
	b, err := readKeyFile(path)
	if err != nil {
		return nil, err
	}
	key, err := parseKeyFile(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, ErrBadKeyFile, err)
	}
	return key, nil
}

// readKeyFile reads a small regular file that only its owner can read.
func readKeyFile(path string) ([]byte, error) {
	// Opening a named pipe would wait for a writer.
	if info, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("secret key: %w", err)
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w: not a regular file", path, ErrBadKeyFile)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("secret key: %w", err)
	}
	defer file.Close()
	// The mode is that of the file that is read, whatever the name means now.
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("secret key: %w", err)
	}
	if err := filecheck.Secret(path, "the secret key", info); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(file, maxKeyFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("secret key: %w", err)
	case len(b) > maxKeyFile:
		return nil, fmt.Errorf("%s: %w: more than %d bytes", path, ErrBadKeyFile, maxKeyFile)
	default:
		return b, nil
	}
}

func parseKeyFile(b []byte) (*SecretKey, error) {
	b, err := plaintext.Clean(b)
	if err != nil {
		return nil, err
	}
	text := plaintext.Trim(string(b))
	if text == "" {
		return nil, errors.New("it is empty")
	}
	if !strings.HasPrefix(text, "-----BEGIN") {
		return ParseSecretKey(text)
	}
	parsed, err := ssh.ParseRawPrivateKey([]byte(text))
	if err != nil {
		return nil, errors.New("an OpenSSH key that cannot be read, perhaps for its passphrase")
	}
	private, ok := parsed.(*ed25519.PrivateKey)
	if !ok {
		return nil, errors.New("an OpenSSH key that is not ed25519")
	}
	return SecretKeyFromSeed(private.Seed())
}

// CreateSecretKey makes a new identity and its file, mode 0600. The file
// appears whole or not at all and an existing one is never replaced: then the
// error wraps fs.ErrExist.
func CreateSecretKey(path string) (*SecretKey, error) {
	key := GenerateSecretKey()
	dir := filepath.Dir(path)
	temp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return nil, fmt.Errorf("secret key: %w", err)
	}
	defer os.Remove(temp.Name())
	_, err = temp.WriteString(key.text() + "\n")
	err = errors.Join(err, temp.Sync(), temp.Close())
	if err != nil {
		return nil, fmt.Errorf("secret key: %w", err)
	}
	// Link, not rename: it fails when the name is taken.
	if err := os.Link(temp.Name(), path); err != nil {
		return nil, fmt.Errorf("secret key: %w", err)
	}
	if err := syncDir(dir); err != nil {
		return nil, err
	}
	return key, nil
}

// syncDir makes a new name in a directory durable. Windows cannot, and need not.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("secret key: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("secret key: %w", err)
	}
	return nil
}
