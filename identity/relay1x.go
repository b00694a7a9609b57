package identity

import (
	"crypto/ed25519"
	"encoding/binary"
	"math/bits"
)

// relay1xContext separates what a challenge of an iroh 1.x relay signs from
// everything else.
const relay1xContext = "iroh-relay handshake v1 challenge signature"

// Relay1xMessage returns what a client of an iroh 1.x relay signs for a challenge:
// BLAKE3 in its mode derive_key.
func Relay1xMessage(challenge [16]byte) [32]byte {
	return blake3DeriveKey(relay1xContext, challenge[:])
}

// SignRelay1x answers the challenge of an iroh 1.x relay (S1). The signature names no
// relay, so that one relay may pass on the challenge of another: over TLS it is not
// to be given, see SignRelay1xTLS.
func (k *SecretKey) SignRelay1x(challenge [16]byte) []byte {
	m := Relay1xMessage(challenge)
	return ed25519.Sign(k.private, m[:])
}

// SignRelay1xTLS proves this node to the iroh 1.x relay at the end of a TLS
// connection: keying is the first half of what both ends export from it (RFC 5705),
// which neither can choose (S1).
func (k *SecretKey) SignRelay1xTLS(keying [16]byte) []byte { return ed25519.Sign(k.private, keying[:]) }

// Flags of a block of BLAKE3 (2.3 of its specification).
const (
	blake3ChunkStart   = 1 << 0
	blake3ChunkEnd     = 1 << 1
	blake3Root         = 1 << 3
	blake3ContextFlag  = 1 << 5
	blake3MaterialFlag = 1 << 6
	blake3OneBlock     = blake3ChunkStart | blake3ChunkEnd | blake3Root
	blake3BlockLen     = 64
	blake3Rounds       = 7
)

var (
	blake3IV = [8]uint32{
		0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
	}
	blake3Order = [16]int{2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8}
)

// blake3DeriveKey is BLAKE3's derive_key with 32 bytes of output, for a context and
// material of at most one block each.
func blake3DeriveKey(context string, material []byte) [32]byte {
	key := blake3Block(blake3IV, []byte(context), blake3OneBlock|blake3ContextFlag)
	out := blake3Block(key, material, blake3OneBlock|blake3MaterialFlag)
	var b [32]byte
	for i, word := range out {
		binary.LittleEndian.PutUint32(b[4*i:], word)
	}
	return b
}

// blake3Block is the compression of the only block of an input, at most 64 bytes.
func blake3Block(chain [8]uint32, block []byte, flags uint32) (out [8]uint32) {
	if len(block) > blake3BlockLen {
		panic("identity: more than one block")
	}
	var padded [blake3BlockLen]byte
	copy(padded[:], block)
	var m [16]uint32
	for i := range m {
		m[i] = binary.LittleEndian.Uint32(padded[4*i:])
	}
	var v [16]uint32
	copy(v[:8], chain[:])
	copy(v[8:12], blake3IV[:4])
	v[14], v[15] = uint32(len(block)), flags // the counter in 12 and 13 is 0
	for range blake3Rounds {
		for i := range 4 { // columns
			blake3Mix(&v, i, 4+i, 8+i, 12+i, m[2*i], m[2*i+1])
		}
		for i := range 4 { // diagonals
			blake3Mix(&v, i, 4+(i+1)%4, 8+(i+2)%4, 12+(i+3)%4, m[8+2*i], m[9+2*i])
		}
		var next [16]uint32
		for i, from := range blake3Order {
			next[i] = m[from]
		}
		m = next
	}
	for i := range out {
		out[i] = v[i] ^ v[8+i]
	}
	return out
}

// blake3Mix is the quarter round.
func blake3Mix(v *[16]uint32, a, b, c, d int, x, y uint32) {
	v[a] += v[b] + x
	v[d] = bits.RotateLeft32(v[d]^v[a], -16)
	v[c] += v[d]
	v[b] = bits.RotateLeft32(v[b]^v[c], -12)
	v[a] += v[b] + y
	v[d] = bits.RotateLeft32(v[d]^v[a], -8)
	v[c] += v[d]
	v[b] = bits.RotateLeft32(v[b]^v[c], -7)
}
