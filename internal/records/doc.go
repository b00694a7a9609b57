// Package records seals and opens the records in which IP packets travel
// between two nodes on a direct path, beside the QUIC connection whose handshake
// authenticated the nodes and whose TLS exporter gave the keys, as SRTP stands
// beside DTLS (RFC 5764).
//
// It is bytes and keys: no sockets, no goroutines, no clock of its own. Which
// connection a record belongs to, where it is sent to and what happens to the
// packet in it is decided by others.
//
// # One UDP payload
//
//	byte    0  0010 eeee: 0x20 and the low four bits of the epoch
//	bytes 1-3  receiver index, big endian
//	bytes 4-11 sequence number, big endian: from 0, never reset
//	bytes 12-  ciphertext of one IP packet, which may be empty (a probe)
//	last 16    tag
//
// The epoch is the sequence number shifted right by 22, so that no key seals
// more than 2^22 records (RFC 9001, section 6.6 and appendix B.1). The nonce is
// the key's iv XOR the sequence number, the associated data the first 12 bytes.
//
// # Keys
//
// Everything is HKDF-Expand with SHA-256 (RFC 5869): secret 0 of a direction
// from the master with "dir c2s" or "dir s2c", the next secret with "next", key
// and iv with "key" and "iv". A secret is wiped when the next one is made. The
// AEAD is that of the connection's cipher suite.
//
// # Concurrency
//
// Sealer and Opener may be used by any number of goroutines. Neither can be
// copied or made anew from what is stored: a (key, nonce) pair exists once.
package records
