package tun

import (
	"errors"
	"strings"
	"testing"
)

func TestCheckName(t *testing.T) {
	for _, name := range []string{"", "nodetun0", "a", "fifteen-bytes.x", "ñandú"} {
		if err := checkName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"sixteen-bytes-xx", ".", "..", "a/b", "a b", "a:1", "tun%d", "a\tb", "a\x00", "a\n"} {
		err := checkName(name)
		if !errors.Is(err, ErrBadName) {
			t.Errorf("%q: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: more than one line", name)
		}
	}
}

func TestOpenRefusesSettings(t *testing.T) {
	for _, mtu := range []int{0, 1279, 65001} {
		if _, err := Open(Config{Name: "nt-test", MTU: mtu}); !errors.Is(err, ErrBadMTU) {
			t.Errorf("MTU %d: %v", mtu, err)
		}
	}
	if _, err := Open(Config{Name: "a/b", MTU: 1420}); !errors.Is(err, ErrBadName) {
		t.Errorf("name: %v", err)
	}
}
