//go:build unix

package filecheck

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// file is what Stat says of one.
type file struct {
	mode fs.FileMode
	uid  int
}

func (f file) Name() string       { return "file" }
func (f file) Size() int64        { return 0 }
func (f file) Mode() fs.FileMode  { return f.mode }
func (f file) ModTime() time.Time { return time.Time{} }
func (f file) IsDir() bool        { return f.mode.IsDir() }
func (f file) Sys() any           { return &syscall.Stat_t{Uid: uint32(f.uid)} }

func TestChecks(t *testing.T) {
	us := os.Geteuid()
	const other = 54321
	for _, test := range []struct {
		name            string
		file            file
		trusted, secret error
		hint            string
	}{
		{"ours", file{0o600, us}, nil, nil, ""},
		{"ours, read only", file{0o400, us}, nil, nil, ""},
		{"ours, readable", file{0o644, us}, nil, ErrReadable, "chmod 600 /f"},
		{"ours, executable", file{0o711, us}, nil, ErrReadable, "chmod 600 /f"},
		{"ours, group may write", file{0o660, us}, ErrWritable, ErrReadable, "chmod"},
		{"ours, all may write", file{0o602, us}, ErrWritable, ErrReadable, "chmod"},
		{"root's", file{0o600, 0}, nil, nil, ""},
		{"root's, all may read", file{0o644, 0}, nil, ErrReadable, "chmod 600 /f"},
		{"root's, all may write", file{0o666, 0}, ErrWritable, ErrReadable, "chmod"},
		{"another's", file{0o600, other}, ErrOwner, ErrOwner, "chown"},
		{"another's, readable", file{0o644, other}, ErrOwner, ErrOwner, "chown"},
		{"our directory", file{fs.ModeDir | 0o700, us}, nil, nil, ""},
		{"our directory, open", file{fs.ModeDir | 0o750, us}, nil, ErrOpen, "chmod 700 /f"},
		{"another's directory", file{fs.ModeDir | 0o700, other}, ErrOwner, ErrOwner, "chown"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, check := range []struct {
				got  error
				want error
			}{{Trusted("/f", test.file), test.trusted}, {Secret("/f", "it", test.file), test.secret}} {
				if !errors.Is(check.got, check.want) {
					t.Errorf("got %v, want %v", check.got, check.want)
				}
				if check.got != nil && !strings.Contains(check.got.Error(), test.hint) {
					t.Errorf("%q does not say %q", check.got, test.hint)
				}
			}
		})
	}
}

// What root shows to a group is a secret kept from all others.
func TestShownByRoot(t *testing.T) {
	if os.Geteuid() == 0 {
		if err := Secret("/f", "it", file{0o640, 0}); !errors.Is(err, ErrReadable) {
			t.Errorf("root's own: %v", err)
		}
		if os.Getenv("FILECHECK_USER") == "" {
			runAsNobody(t)
			return
		}
	}
	for mode, want := range map[fs.FileMode]error{0o640: nil, 0o440: nil, 0o660: ErrReadable, 0o644: ErrReadable, 0o641: ErrReadable} {
		if err := Secret("/f", "it", file{mode, 0}); !errors.Is(err, want) {
			t.Errorf("%o: %v, want %v", mode, err, want)
		}
	}
}

// runAsNobody runs the calling test again as another user than root.
func runAsNobody(t *testing.T) {
	t.Helper()
	const nobody = 65534
	binary, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Skip("no way to run this test as another user")
	}
	dir, err := os.MkdirTemp("", "filecheck")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := dir + "/test"
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(path, binary, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Dir, cmd.Env = "/", []string{"FILECHECK_USER=nobody"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("as another user: %v\n%s", err, out)
	}
}
