package records

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
)

// Label is the label of the TLS exporter (RFC 8446 section 7.5) for the master;
// its context is the NodeID of the client and that of the server.
const Label = "EXPORTER nodetun records 1"

// MasterLen is the length of the master in bytes.
const MasterLen = 32

// ErrSuite says that the cipher suite has no AEAD here.
var ErrSuite = errors.New("unknown cipher suite")

const nonceLen = 12

// direction tells the records of the client from those of the server.
type direction string

const (
	clientToServer direction = "dir c2s"
	serverToClient direction = "dir s2c"
)

// secret is one link of the chain of a direction.
type secret [sha256.Size]byte

// key is what one epoch is sealed with.
type key struct {
	aead cipher.AEAD
	iv   [nonceLen]byte
}

// expand is HKDF-Expand. It fails only for lengths that are not asked for here.
func expand(from []byte, info string, n int) ([]byte, error) {
	out, err := hkdf.Expand(sha256.New, from, info, n)
	if err != nil {
		return nil, fmt.Errorf("expand %q: %w", info, err)
	}
	return out, nil
}

func firstSecret(master []byte, d direction) (s secret, err error) {
	b, err := expand(master, string(d), len(s))
	if err != nil {
		return s, err
	}
	copy(s[:], b)
	clear(b)
	return s, nil
}

// next returns the secret after s.
func (s *secret) next() (n secret, err error) {
	b, err := expand(s[:], "next", len(n))
	if err != nil {
		return n, err
	}
	copy(n[:], b)
	clear(b)
	return n, nil
}

// advance replaces s with the secret after it.
func (s *secret) advance() error {
	n, err := s.next()
	if err != nil {
		return err
	}
	*s = n
	return nil
}

// key derives what the epoch of s is sealed with.
func (s *secret) key(suite uint16) (*key, error) {
	size := 32
	if suite == tls.TLS_AES_128_GCM_SHA256 {
		size = 16
	}
	raw, err := expand(s[:], "key", size)
	if err != nil {
		return nil, err
	}
	defer clear(raw)
	iv, err := expand(s[:], "iv", nonceLen)
	if err != nil {
		return nil, err
	}
	k := &key{}
	copy(k.iv[:], iv)
	if k.aead, err = newAEAD(suite, raw); err != nil {
		return nil, err
	}
	return k, nil
}

func newAEAD(suite uint16, raw []byte) (cipher.AEAD, error) {
	switch suite {
	case tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384:
		block, err := aes.NewCipher(raw)
		if err != nil {
			return nil, err
		}
		return cipher.NewGCM(block)
	case tls.TLS_CHACHA20_POLY1305_SHA256:
		return chacha20poly1305.New(raw)
	}
	return nil, fmt.Errorf("%w: %#04x", ErrSuite, suite)
}

// nonce writes the nonce of a sequence number.
func (k *key) nonce(to *[nonceLen]byte, seq uint64) {
	*to = k.iv
	binary.BigEndian.PutUint64(to[4:], binary.BigEndian.Uint64(k.iv[4:])^seq)
}
