package sshkeys

import (
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Limits.
const (
	// Max is how many keys of one host are taken.
	Max    = 8
	minRSA = 2048 // bits
	maxKey = 4096 // bytes of a line
)

// types are those that a key may have (RFC 8709, RFC 5656, RFC 4253).
var types = []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSA}

// ErrBadKey is wrapped by errors about text that is no key of a host.
var ErrBadKey = errors.New("not an ssh host key")

// Parse reads "type base64" and returns it, written of what was understood. Anything else, such
// as options, comments, certificates and weak keys, is refused.
func Parse(line string) (string, error) {
	kind, data, _ := strings.Cut(line, " ")
	if len(line) > maxKey || !slices.Contains(types, kind) {
		return "", fmt.Errorf("%w: its type", ErrBadKey)
	}
	blob, err := base64.StdEncoding.Strict().DecodeString(data)
	if err != nil {
		return "", fmt.Errorf("%w: its base64", ErrBadKey)
	}
	key, err := ssh.ParsePublicKey(blob)
	if err != nil || key.Type() != kind || string(key.Marshal()) != string(blob) {
		return "", fmt.Errorf("%w: its content", ErrBadKey)
	}
	if crypto, ok := key.(ssh.CryptoPublicKey); ok {
		if weak, ok := crypto.CryptoPublicKey().(*rsa.PublicKey); ok && weak.N.BitLen() < minRSA {
			return "", fmt.Errorf("%w: it has %d bits", ErrBadKey, weak.N.BitLen())
		}
	}
	text := kind + " " + base64.StdEncoding.EncodeToString(blob)
	if text != line { // base64 with line ends
		return "", fmt.Errorf("%w: its base64", ErrBadKey)
	}
	return text, nil
}

// ParseAll takes the good ones of a list, each once and at most Max.
func ParseAll(lines []string) (list []string) {
	for _, line := range lines[:min(len(lines), 4*Max)] {
		if key, err := Parse(line); err == nil && !slices.Contains(list, key) && len(list) < Max {
			list = append(list, key)
		}
	}
	return list
}

// OfHost reads the keys of a host's ssh server: the files ssh_host_*_key.pub of a directory.
func OfHost(dir string) []string {
	paths, _ := filepath.Glob(filepath.Join(dir, "ssh_host_*_key.pub"))
	var lines []string
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil || len(data) > maxKey {
			continue
		}
		if words := strings.Fields(string(data)); len(words) >= 2 { // a comment follows
			lines = append(lines, words[0]+" "+words[1])
		}
	}
	return ParseAll(lines)
}
