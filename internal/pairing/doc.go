// Package pairing lets two machines whose owners talk to each other find and trust each
// other by a code of nine digits.
//
// The code says where to meet, and is no secret that anything depends on: both make the
// same key of it (Code.Key), the one that waits is found under its NodeID, and the other
// dials it with a key made for the occasion. Whoever guesses the code, or the relay, may
// stand between them. What that changes is seen by the owners: each side shows a check of
// six digits, made of the keys of the very connection, and both have to say that they see
// the same.
//
//	caller: Hello{name, commit}    commit = SHA-256 of its nonce
//	waiter: Hello{name, nonce}
//	caller: Hello{nonce}           now both know the check
//	both:   Verdict{same}
//	waiter: Offer{invite}          the caller joins by it, as by any other
//	caller: Outcome{id, error}
//
// Neither can choose its nonce after it saw the other's, so that who stands in between has
// one try in a million, and each try asks two owners. Every message is its length in two
// bytes, big endian, and JSON of at most 4096 bytes.
package pairing
