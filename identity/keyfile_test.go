package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/nodetun/nodetun/internal/filecheck"
)

func writeFile(t *testing.T, mode fs.FileMode, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret.key")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask is
		t.Fatal(err)
	}
	return path
}

func openSSH(t *testing.T, key crypto.PrivateKey, passphrase string) string {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(key, "someone@somewhere")
	if passphrase != "" {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block))
}

func TestLoadSecretKey(t *testing.T) {
	key := testKey(t, 7)
	for name, content := range map[string]string{
		"base32":              key.text(),
		"base32 and line end": key.text() + "\n",
		"spaces":              "  " + key.text() + "\r\n\n",
		"hex":                 hex.EncodeToString(seed(7)) + "\n",
		"OpenSSH":             openSSH(t, ed25519.NewKeyFromSeed(seed(7)), ""),
	} {
		for _, mode := range []fs.FileMode{0o600, 0o400} {
			t.Run(name, func(t *testing.T) {
				got, err := LoadSecretKey(writeFile(t, mode, content))
				if err != nil {
					t.Fatal(err)
				}
				if got.NodeID() != key.NodeID() {
					t.Errorf("another key: %v", got.NodeID())
				}
			})
		}
	}
}

func TestLoadSecretKeyBad(t *testing.T) {
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"empty":           "",
		"short":           testKey(t, 7).text()[:51],
		"two lines":       testKey(t, 7).text() + "\n" + testKey(t, 7).text(),
		"huge":            strings.Repeat("a", 1<<20),
		"PEM of nothing":  "-----BEGIN OPENSSH PRIVATE KEY-----\n",
		"with passphrase": openSSH(t, ed25519.NewKeyFromSeed(seed(7)), "secret"),
		"ecdsa":           openSSH(t, other, ""),
		"binary":          string(seed(7)),
	} {
		t.Run(name, func(t *testing.T) {
			path := writeFile(t, 0o600, content)
			_, err := LoadSecretKey(path)
			if !errors.Is(err, ErrBadKeyFile) {
				t.Fatalf("%v, want %v", err, ErrBadKeyFile)
			}
			if !strings.Contains(err.Error(), path) || len(err.Error()) > 300 {
				t.Errorf("a message that does not help: %v", err)
			}
			if content != "" && strings.Contains(err.Error(), strings.TrimSpace(content)) {
				t.Errorf("the message holds the content: %v", err)
			}
		})
	}
	if _, err := LoadSecretKey(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := LoadSecretKey(t.TempDir()); !errors.Is(err, ErrBadKeyFile) {
		t.Errorf("a directory: %v", err)
	}
}

// S5: a file that anyone but its owner may touch is refused, also behind a
// symbolic link, and the message says what to do.
func TestKeyFileReadable(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no mode bits")
	}
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o660, 0o644, 0o666, 0o620, 0o602, 0o610, 0o601, 0o777} {
		path := writeFile(t, mode, testKey(t, 7).text())
		_, err := LoadSecretKey(path)
		if !errors.Is(err, filecheck.ErrReadable) || !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("mode %v: %v", mode, err)
		}
		link := path + ".link"
		if err := os.Symlink(path, link); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadSecretKey(link); !errors.Is(err, filecheck.ErrReadable) {
			t.Errorf("mode %v by a link: %v", mode, err)
		}
	}
}

func TestCreateSecretKey(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "secret.key")
	key, err := CreateSecretKey(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" && info.Mode() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	loaded, err := LoadSecretKey(path)
	if err != nil || loaded.NodeID() != key.NodeID() {
		t.Errorf("loaded %v, %v", loaded, err)
	}
	checkOnly(t, dir, "secret.key")
	if _, err := CreateSecretKey(filepath.Join(dir, "none", "secret.key")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}

// checkOnly reports files that were left in a directory.
func checkOnly(t *testing.T, dir, want string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != want {
			t.Errorf("%s is left", e.Name())
		}
	}
}

// An identity is never lost to another start: what is there stays, whatever it
// is, and nothing is written through a link that somebody laid.
func TestCreateSecretKeyNeverReplaces(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, path string){
		"a key": func(t *testing.T, path string) {
			if _, err := CreateSecretKey(path); err != nil {
				t.Fatal(err)
			}
		},
		"an empty file": func(t *testing.T, path string) {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"a dangling link": func(t *testing.T, path string) {
			if err := os.Symlink(path+".elsewhere", path); err != nil {
				t.Fatal(err)
			}
		},
		"a directory": func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "secret.key")
			prepare(t, path)
			before, _ := os.ReadFile(path)
			if key, err := CreateSecretKey(path); !errors.Is(err, fs.ErrExist) || key != nil {
				t.Errorf("%v, %v", key, err)
			}
			if after, _ := os.ReadFile(path); string(after) != string(before) {
				t.Error("the file changed")
			}
			checkOnly(t, dir, "secret.key")
		})
	}
}

// Two daemons that start at once get one identity: one creates, the other is
// told that there is one.
func TestCreateSecretKeyRace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret.key")
	var (
		wg   sync.WaitGroup
		made atomic.Int32
		id   atomic.Value
	)
	for range 8 {
		wg.Go(func() {
			switch key, err := CreateSecretKey(path); {
			case err == nil:
				made.Add(1)
				id.Store(key.NodeID())
			case !errors.Is(err, fs.ErrExist):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	key, err := LoadSecretKey(path)
	if err != nil || made.Load() != 1 || key.NodeID() != id.Load() {
		t.Errorf("%d keys were made, the file holds %v, %v", made.Load(), key, err)
	}
}
