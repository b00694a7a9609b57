// Package dht finds nodes in the Mainline DHT of BitTorrent, where signed packets are
// mutable items (BEP 44) of the node's key, as pkarr and iroh-net have it:
//
//	bencode     the encoding of messages (BEP 3)
//	message.go  questions and answers (BEP 5, BEP 44)
//	lookup.go   the walk towards those who keep an item
//	client.go   getting and putting packets
//
// It asks and answers nobody (BEP 43): a walk has a socket of its own, and there is none
// between walks. It goes by IPv4.
package dht
