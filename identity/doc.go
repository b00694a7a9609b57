// Package identity says who a node is and where it may be found: NodeID and
// SecretKey, RelayURL, NodeAddr and its ticket text.
//
// A node is named by its Ed25519 public key. Text forms and bytes are those of
// iroh-net 0.28.1: a NodeID is printed as 52 characters of lower-case RFC 4648
// base32 without padding, which is a DNS label as it stands; tickets are
// readable by iroh and the other way round.
//
// The package opens no sockets, starts no goroutines and imports nothing else
// of nodetun. Values are safe for concurrent use; a SecretKey never shows
// itself in logs, and signs only through functions with a fixed purpose (S1).
package identity
