package identity

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"filippo.io/edwards25519"
	"golang.org/x/crypto/curve25519"
)

// SecretKey is a node's identity: an Ed25519 seed of 32 bytes and what follows
// from it. It is used by pointer and never changed.
type SecretKey struct {
	private ed25519.PrivateKey
	id      NodeID
	scalar  [32]byte // X25519 (RFC 7748 5)
}

// ErrBadSecretKey is wrapped by errors about text that is no secret key. They
// never hold the text.
var ErrBadSecretKey = errors.New("not a secret key")

// GenerateSecretKey makes a new identity.
func GenerateSecretKey() *SecretKey {
	var seed [ed25519.SeedSize]byte
	rand.Read(seed[:])
	key, _ := SecretKeyFromSeed(seed[:]) // the length is right
	return key
}

// SecretKeyFromSeed makes the identity of a seed of 32 bytes.
func SecretKeyFromSeed(seed []byte) (*SecretKey, error) {
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("%w: %d bytes, want 32", ErrBadSecretKey, len(seed))
	}
	private := ed25519.NewKeyFromSeed(seed)
	expanded := sha512.Sum512(seed)
	return &SecretKey{
		private: private,
		id:      NodeID(private.Public().(ed25519.PublicKey)),
		scalar:  [32]byte(expanded[:32]),
	}, nil
}

// ParseSecretKey reads the text of a seed: 52 characters of base32 or 64 of
// hex. Errors wrap ErrBadSecretKey.
func ParseSecretKey(text string) (*SecretKey, error) {
	seed, err := parseKeyText(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadSecretKey, err)
	}
	return SecretKeyFromSeed(seed)
}

// NodeID returns the public half.
func (k *SecretKey) NodeID() NodeID { return k.id }

// hidden stands for a key wherever it would be shown.
const hidden = "SecretKey(..)"

// String hides the key. Like Format and LogValue it has a value receiver, so
// that a key that was copied by mistake hides itself as well.
func (k SecretKey) String() string { return hidden }

// Format hides the key from all verbs of package fmt.
func (k SecretKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hidden) }

// LogValue hides the key from logs.
func (k SecretKey) LogValue() slog.Value { return slog.StringValue(hidden) }

// text is the seed in canonical form, for the key file alone.
func (k *SecretKey) text() string { return encoding32.EncodeToString(k.private.Seed()) }

// ECDH returns the X25519 secret that this node shares with the peer. The
// peer's Montgomery point is made from its NodeID (RFC 7748 4.1).
func (k *SecretKey) ECDH(peer NodeID) ([32]byte, error) {
	point, err := new(edwards25519.Point).SetBytes(peer[:])
	if err != nil {
		return [32]byte{}, fmt.Errorf("%w: not a point on the curve", ErrBadNodeID)
	}
	shared, err := curve25519.X25519(k.scalar[:], point.BytesMontgomery())
	if err != nil {
		return [32]byte{}, fmt.Errorf("key exchange: %w", err)
	}
	return [32]byte(shared), nil
}

// tlsPrefix goes before what SignTLS signs (libp2p's TLS specification, which
// iroh-net follows).
const tlsPrefix = "libp2p-tls-handshake:"

// TLSMessage returns what a certificate's identity signs: the fixed prefix and
// the DER SubjectPublicKeyInfo of the certificate's key.
func TLSMessage(spki []byte) []byte { return append([]byte(tlsPrefix), spki...) }

// SignTLS binds the key of a TLS certificate, as DER SubjectPublicKeyInfo, to
// this node (S1).
func (k *SecretKey) SignTLS(spki []byte) []byte { return ed25519.Sign(k.private, TLSMessage(spki)) }

// relayV3Message is the constant that a login of relay protocol 3 signs.
var relayV3Message = []byte{3}

// SignRelayV3 returns the signature of a login to a relay of protocol 3, which
// covers the one byte 03: it is constant and may be replayed (S1, S2).
func (k *SecretKey) SignRelayV3() []byte { return ed25519.Sign(k.private, relayV3Message) }

// loginPrefix goes before what SignLogin signs.
const loginPrefix = "nodetun relay login 1\x00"

// LoginMessage returns what a login to a relay of nodetun signs: the prefix, the
// length of host in one byte, host, the relay's challenge and the NodeID. host is
// what the client dialled, in lower case, with port, at most 255 bytes.
func LoginMessage(host string, challenge [32]byte, id NodeID) ([]byte, error) {
	if len(host) == 0 || len(host) > 255 {
		return nil, fmt.Errorf("relay host of %d bytes, want 1 to 255", len(host))
	}
	m := append([]byte(loginPrefix), byte(len(host)))
	m = append(m, host...)
	m = append(m, challenge[:]...)
	return append(m, id[:]...), nil
}

// SignLogin proves this node to one relay, once: the signature covers the relay's
// name and a challenge that it drew (S1).
func (k *SecretKey) SignLogin(host string, challenge [32]byte) ([]byte, error) {
	m, err := LoginMessage(host, challenge, k.NodeID())
	if err != nil {
		return nil, err
	}
	return ed25519.Sign(k.private, m), nil
}

// ResetKey derives the key of QUIC stateless resets from the seed and a salt
// that belongs to this installation (S4).
func (k *SecretKey) ResetKey(salt []byte) [32]byte {
	return k.derive(salt, "nodetun stateless reset 1")
}

// PortmapSecret derives what makes the nonces of port mappings the same after a
// restart, so that a mapping left behind can be taken over (RFC 6887 11.3).
func (k *SecretKey) PortmapSecret() [32]byte { return k.derive(nil, "nodetun port mapping 1") }

// derive makes a secret for one purpose (RFC 5869).
func (k *SecretKey) derive(salt []byte, info string) [32]byte {
	key, err := hkdf.Key(sha256.New, k.private.Seed(), salt, info, 32)
	if err != nil {
		panic("identity: hkdf of 32 bytes cannot fail: " + err.Error())
	}
	return [32]byte(key)
}
