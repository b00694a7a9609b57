package daemon

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodetun/nodetun/routing"
)

// S5: a state directory that others may enter is refused, with the command that
// mends it, and is not changed.
func TestStateDirOpenToOthers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := MakeStateDir(dir); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	for _, mode := range []os.FileMode{0o750, 0o701, 0o755} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		if err := MakeStateDir(dir); err == nil || !strings.Contains(err.Error(), "chmod 700 "+dir) {
			t.Errorf("mode %o: %v", mode, err)
		}
		if info, _ := os.Stat(dir); info.Mode().Perm() != mode {
			t.Errorf("mode %o became %o", mode, info.Mode().Perm())
		}
	}
}

// S4, S5: the salt stays over restarts, changes with the machine, and a file that is
// open to others is refused and left alone. One that is broken is set aside: without
// its salt peers take a few seconds to notice a restart, without the node they have
// none.
func TestSalt(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, saltFile)
	first, err := loadSalt(dir)
	if err != nil || len(first) != saltLen {
		t.Fatalf("%d bytes, %v", len(first), err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if again, err := loadSalt(dir); err != nil || !bytes.Equal(again, first) {
		t.Errorf("another salt after a restart: %v", err)
	}

	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := loadSalt(dir); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("readable by others: %v", err)
	}

	broken := []byte("not a salt")
	if err := os.WriteFile(path, broken, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	fresh, err := loadSalt(dir)
	if !errors.Is(err, errNoSalt) || !strings.Contains(err.Error(), saltFile+".broken") || len(fresh) != saltLen || bytes.Equal(fresh, first) {
		t.Errorf("broken file: %d bytes, %v", len(fresh), err)
	}
	if b, _ := os.ReadFile(path + ".broken"); !bytes.Equal(b, broken) {
		t.Errorf("the broken file is not kept: %q", b)
	}
	if again, err := loadSalt(dir); err != nil || !bytes.Equal(again, fresh) {
		t.Errorf("after that: %v", err)
	}

	elsewhere, err := newSalt(path, "another machine")
	if err != nil {
		t.Fatal(err)
	}
	if here, err := loadSalt(dir); err != nil || bytes.Equal(here, elsewhere) {
		t.Errorf("the salt of another machine was kept: %v", err)
	}
}

func TestChoosePoolKeepsTheLast(t *testing.T) {
	first, second := netip.MustParsePrefix("198.18.0.0/16"), netip.MustParsePrefix("10.214.0.0/16")
	for _, tc := range []struct {
		name  string
		set   string
		last  netip.Prefix
		taken []netip.Prefix
		want  netip.Prefix
	}{
		{"first start", "", netip.Prefix{}, nil, first},
		{"the first is taken", "", netip.Prefix{}, []netip.Prefix{first}, second},
		{"the first is free again", "", second, nil, second},
		{"the last is taken now", "", second, []netip.Prefix{second}, first},
		{"set", "10.9.0.0/16", second, nil, netip.MustParsePrefix("10.9.0.0/16")},
		{"off", "none", second, nil, netip.Prefix{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got, err := choosePool(tc.set, tc.last, routing.Networks{Used: tc.taken}); err != nil || got != tc.want {
				t.Errorf("got %v, %v, want %v", got, err, tc.want)
			}
		})
	}
}

func TestUndoIsInReverse(t *testing.T) {
	var order []int
	var u undoList
	for i := range 3 {
		u.add(func() error { order = append(order, i); return nil })
	}
	if err := u.run(); err != nil || len(order) != 3 || order[0] != 2 || order[2] != 0 {
		t.Errorf("order %v, %v", order, err)
	}
	if err := u.run(); err != nil || len(order) != 3 {
		t.Errorf("undone twice: %v", order)
	}
}

func TestHostNameThatCannotBeUsed(t *testing.T) {
	for host, want := range map[string]string{
		"laptop": "", "": "", "ip-10-0-0-1": "",
		"my_host": "my_host", "localhost": "localhost", "büro": "büro", strings.Repeat("a", 64): "aaaa", "-host": "-host", "wpad": "wpad",
	} {
		said := ""
		nameHealth(host, func(what, fix string) { said = what + fix })
		if (said == "") != (want == "") || !strings.Contains(said, want) {
			t.Errorf("%q: %q", host, said)
		}
	}
}
