package sshkeys

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// line is the text of a public key.
func line(t testing.TB, public any) string {
	t.Helper()
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return key.Type() + " " + base64.StdEncoding.EncodeToString(key.Marshal())
}

func newEd25519(t testing.TB) string {
	t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return line(t, public)
}

func newRSA(t testing.TB, bits int) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return line(t, &key.PublicKey)
}

// S23: what is a key, and nothing beside it.
func TestParse(t *testing.T) {
	curve, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := newEd25519(t)
	for _, key := range []string{good, line(t, &curve.PublicKey), newRSA(t, 2048)} {
		if got, err := Parse(key); err != nil || got != key {
			t.Errorf("%s: %q, %v", key, got, err)
		}
	}
	kind, data, _ := strings.Cut(good, " ")
	for what, key := range map[string]string{
		"nothing": "", "no data": kind, "a comment": good + " me@here", "an option": `command="id" ` + good, "two lines": good + "\n" + good,
		"a line's end": good + "\n", "a tab": kind + "\t" + data, "another type": "ssh-rsa " + data, "an unknown type": "ssh-x " + data,
		"bytes behind": kind + " " + base64.StdEncoding.EncodeToString(append(mustDecode(t, data), 0)), "bytes missing": kind + " " + data[:len(data)-4],
		"loose base64": kind + " " + data[:20] + "\r\n" + data[20:], "a short RSA key": newRSA(t, 1024), "DSA": "ssh-dss AAAAB3NzaC1kc3M=", "a host pattern": "* " + good,
		"escapes": kind + "\x1b[2J " + data, "too much": kind + " " + strings.Repeat("A", maxKey),
	} {
		if got, err := Parse(key); !errors.Is(err, ErrBadKey) {
			t.Errorf("%s: %q, %v", what, got, err)
		}
	}
}

func mustDecode(t *testing.T, text string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseAll(t *testing.T) {
	one := newEd25519(t)
	lines := []string{one, "x", one}
	for range 2 * Max {
		lines = append(lines, newEd25519(t))
	}
	got := ParseAll(lines)
	if len(got) != Max || got[0] != one || slices.Contains(got[1:], one) {
		t.Errorf("%d keys", len(got))
	}
}

func TestOfHost(t *testing.T) {
	dir := t.TempDir()
	one, two := newEd25519(t), newRSA(t, 2048)
	for name, text := range map[string]string{
		"ssh_host_ed25519_key.pub": one + " root@here\n", "ssh_host_rsa_key.pub": two, "ssh_host_dsa_key.pub": "ssh-dss AAAA", "ssh_host_ed25519_key": "secret", "other.pub": newEd25519(t),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := OfHost(dir); !slices.Equal(got, []string{one, two}) {
		t.Errorf("%q", got)
	}
	if got := OfHost(filepath.Join(dir, "absent")); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(newEd25519(f))
	f.Add("ssh-ed25519 AAAA comment")
	f.Fuzz(func(t *testing.T, s string) {
		key, err := Parse(s)
		if err != nil {
			return
		}
		if key != s || strings.ContainsAny(key, "\n\r\t\x00") || strings.Count(key, " ") != 1 {
			t.Errorf("%q became %q", s, key)
		}
	})
}
