package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestWrite(t *testing.T) {
	for _, tc := range []struct {
		name  string
		setup func(t *testing.T, path string)
		mode  fs.FileMode
	}{
		{"new", func(*testing.T, string) {}, 0o600},
		{"mode beyond the umask", func(*testing.T, string) {}, 0o666},
		{"replace", func(t *testing.T, path string) { put(t, path, "old and longer", 0o644) }, 0o600},
		{"replace a link, not its target", func(t *testing.T, path string) {
			target := path + ".target"
			put(t, target, "kept", 0o644)
			t.Cleanup(func() {
				if b, _ := os.ReadFile(target); string(b) != "kept" {
					t.Errorf("the link's target holds %q", b)
				}
			})
			if err := os.Symlink(target, path); err != nil {
				t.Fatal(err)
			}
		}, 0o600},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			tc.setup(t, path)
			if err := Write(path, []byte("new"), tc.mode); err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(path)
			if err != nil || string(b) != "new" {
				t.Errorf("read %q, %v", b, err)
			}
			if info, err := os.Lstat(path); err != nil || info.Mode() != tc.mode {
				t.Errorf("mode %v, want %v (%v)", info.Mode(), tc.mode, err)
			}
			noLeftovers(t, filepath.Dir(path))
		})
	}
}

func TestWriteFails(t *testing.T) {
	dir := t.TempDir()
	if err := Write(filepath.Join(dir, "missing", "file"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	occupied := filepath.Join(dir, "occupied")
	if err := os.MkdirAll(filepath.Join(occupied, "child"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Write(occupied, []byte("x"), 0o600); err == nil {
		t.Error("a directory was replaced")
	}
	noLeftovers(t, dir)
}

// However many write at once, a reader sees one of the contents, whole.
func TestWriteIsAtomic(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	contents := []string{strings.Repeat("a", 10000), strings.Repeat("b", 20000)}
	put(t, path, contents[0], 0o600)
	var writers sync.WaitGroup
	for _, content := range contents {
		writers.Go(func() {
			for range 20 {
				if err := Write(path, []byte(content), 0o600); err != nil {
					t.Error(err)
				}
			}
		})
	}
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			if b, err := os.ReadFile(path); err != nil || string(b) != contents[0] && string(b) != contents[1] {
				t.Errorf("read %d bytes, %v", len(b), err)
				return
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	writers.Wait()
	close(stop)
	reader.Wait()
	noLeftovers(t, filepath.Dir(path))
}

func put(t *testing.T, path, content string, mode fs.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

func noLeftovers(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") {
			t.Errorf("left behind: %s", entry.Name())
		}
	}
}
