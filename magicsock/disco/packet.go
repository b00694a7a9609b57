package disco

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"

	"golang.org/x/crypto/chacha20"
	//lint:ignore SA1019 the box is older than the AEAD and needs bare Poly1305
	"golang.org/x/crypto/poly1305" //nolint:staticcheck // as above

	"github.com/nodetun/nodetun/identity"
)

// Lengths of the parts of a packet in bytes.
const (
	magicLen  = 6
	headerLen = magicLen + 32
	tagLen    = 16
	nonceLen  = chacha20.NonceSizeX
	// Overhead is what a packet has beyond its plaintext.
	Overhead = headerLen + tagLen + nonceLen
	// keyBlock is the part of the key stream that makes the Poly1305 key.
	keyBlock = 32
)

// magic begins every packet. Its first byte has QUIC's fixed bit set, so disco
// must be taken out before QUIC sees it.
var magic = [magicLen]byte{0x54, 0x53, 0xf0, 0x9f, 0x92, 0xac}

// Errors of Open.
var (
	ErrBox         = errors.New("disco: the box does not open")
	ErrMalformed   = errors.New("disco: malformed message")
	ErrUnknownType = errors.New("disco: unknown type or version")
)

// SharedKey seals and opens the packets of one pair of nodes, both ways.
type SharedKey [32]byte

// NewSharedKey derives the key that k's node and the peer share. It costs a
// multiplication on the curve; callers keep the result.
func NewSharedKey(k *identity.SecretKey, peer identity.NodeID) (SharedKey, error) {
	secret, err := k.ECDH(peer)
	if err != nil {
		return SharedKey{}, err
	}
	key, err := chacha20.HChaCha20(secret[:], make([]byte, 16))
	if err != nil {
		return SharedKey{}, err
	}
	return SharedKey(key), nil
}

// Is reports whether b is a disco packet by length and magic. Such a packet is
// never given to QUIC, whatever it holds.
func Is(b []byte) bool { return len(b) >= headerLen && [magicLen]byte(b) == magic }

// Sender returns the clear-text key of the sender as it stands in the packet,
// of which Is was true. It does no arithmetic: who asks for admission first
// (S6) spends nothing on strangers.
func Sender(b []byte) [32]byte { return [32]byte(b[magicLen:headerLen]) }

// Append appends the packet of a message from self, sealed with a random nonce.
func Append(dst []byte, self identity.NodeID, key *SharedKey, m Message) []byte {
	var nonce [nonceLen]byte
	rand.Read(nonce[:])
	return appendSealed(dst, self, key, &nonce, m)
}

func appendSealed(dst []byte, self identity.NodeID, key *SharedKey, nonce *[nonceLen]byte, m Message) []byte {
	dst = append(dst, magic[:]...)
	dst = append(dst, self[:]...)
	tagAt := len(dst)
	dst = append(dst, make([]byte, tagLen)...)
	dst = m.append(dst)
	box := dst[tagAt+tagLen:]
	tag := seal(box, box, key, nonce[:])
	copy(dst[tagAt:], tag[:])
	return append(dst, nonce[:]...)
}

// Open opens a packet of which Is was true, in place: b is scratch afterwards.
// The message keeps nothing of it.
func Open(key *SharedKey, b []byte) (Message, error) {
	if len(b) < Overhead {
		return nil, ErrMalformed
	}
	tag := b[headerLen : headerLen+tagLen]
	box, nonce := b[headerLen+tagLen:len(b)-nonceLen], b[len(b)-nonceLen:]
	stream, polyKey := keyStream(key, nonce)
	var want [tagLen]byte
	poly1305.Sum(&want, box, &polyKey)
	if subtle.ConstantTimeCompare(tag, want[:]) != 1 {
		return nil, ErrBox
	}
	stream.XORKeyStream(box, box)
	return parseMessage(box)
}

// seal encrypts plain into dst, which may be plain itself, and returns the tag.
func seal(dst, plain []byte, key *SharedKey, nonce []byte) [tagLen]byte {
	stream, polyKey := keyStream(key, nonce)
	stream.XORKeyStream(dst, plain)
	var tag [tagLen]byte
	poly1305.Sum(&tag, dst, &polyKey)
	return tag
}

// keyStream returns XChaCha20 at byte 32 and the Poly1305 key before it. The
// cipher is returned by value, so that it stays on the stack.
func keyStream(key *SharedKey, nonce []byte) (chacha20.Cipher, [keyBlock]byte) {
	stream, err := chacha20.NewUnauthenticatedCipher(key[:], nonce)
	if err != nil {
		panic("disco: key and nonce have fixed lengths: " + err.Error())
	}
	var polyKey [keyBlock]byte
	stream.XORKeyStream(polyKey[:], polyKey[:])
	return *stream, polyKey
}
