// Package mdns finds nodes on the links of this host, and tells them where this one is, by
// the multicast DNS messages of iroh-net (swarm-discovery), with a few of its own so that a
// link stays quiet:
//
//	message.go  the bytes
//	socket.go   multicast on all links
//	node.go     who asks, who answers, what is remembered
//
// Nothing of it is signed: what it finds are hints.
package mdns
