// Package disco holds the bytes of path discovery: ping, pong and
// call-me-maybe, sealed between two nodes, as in iroh-net 0.28.1.
//
// A packet is
//
//	magic 6 (54 53 f0 9f 92 ac) │ sender NodeID 32 │ tag 16 │ ciphertext n │ nonce 24
//
// The box is NaCl's secretbox with XChaCha20 in place of XSalsa20: the first 32
// bytes of the key stream are the Poly1305 key, the message is XORed with the
// stream from byte 32 on, and the tag covers the ciphertext alone. Its key is
// HChaCha20 of the X25519 secret of the two nodes. The plaintext is
//
//	type 1 │ version 1 (00) │ payload
//
//	1 ping           tx 12 │ sender NodeID 32 │ padding
//	2 pong           tx 12 │ 00 │ address 18, or 01 │ relay URL
//	3 call-me-maybe  address 18, repeated
//
// An address is 16 bytes of IPv6 (IPv4 mapped) and a little-endian port.
//
// There is no forward secrecy and no protection against replay: nothing but
// the choice of a path may depend on a disco message (S12). The package has no
// state; everything may be called concurrently.
package disco
