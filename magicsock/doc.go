// Package magicsock is a packet socket addressed by node. QUIC above it sends
// to a NodeID, by a fixed fake address for each, and never notices which path
// the packets take: a direct UDP address, a relay, or for moments both.
//
// It is the place where seven packages meet and holds little of its own:
// nodemap decides where a packet goes and what disco messages are due, udpconn
// and relayactor carry bytes, disco knows the layout of messages, netcheck and
// portmap know how this node is seen from outside, fec repairs what is lost. The files follow the faces:
//
//	conn.go         Config, New, Run and what applications ask
//	packetconn.go   the face towards QUIC: batches, segmentation, ECN
//	sender.go       joins consecutive sends into larger ones
//	demux.go        sorts what arrives: STUN, disco, QUIC
//	inbox.go        what arrives elsewhere than on the directly read socket
//	paths.go        the node map, its guard and its clock
//	actions.go      carries out what the node map asks for
//	discoio.go      receives disco messages, admits and opens them
//	markedconn.go   a second path to each node, so that QUIC can move to it
//	cut.go          packets that are too large for their path, in halves
//	coding.go       packets whose loss on the path is repaired before QUIC notices
//	punch.go        hard NATs: many sockets on one side, many ports on the other
//	directaddrs.go  where this node may be reached
//	claims.go       what others say about that, and whom we tell
//	survey.go       netcheck and portmap at work: when, and what follows from it
//	underlay.go     the network below, which tests replace
//
// # A packet out
//
// WriteMsgUDP takes a batch of packets of one size for a mapped address, asks
// the node map for the route (one lock, no I/O under it), carries out pings
// that are due, and gives the batch to the sender or the relay.
//
// # A packet in
//
// ReadBatch reads one of the UDP sockets itself, so that a packet of a direct
// path changes no goroutine on its way to QUIC. The other socket and the
// relays are read by goroutines of their own, which put what came in whole
// batches into a bounded queue and wake ReadBatch by its read deadline.
//
// # First byte of a UDP payload
//
//	0x00, 0x01 and the cookie of RFC 8489   STUN
//	0x30, 0x31                              half of a cut QUIC packet
//	0x34, 0x35                              QUIC with a number, and parity (package fec)
//	0x54 and the disco magic                disco, whether it opens or not
//	0x40 set                                QUIC
//	0x00 … 0x1f, 21 bytes or more           QUIC on the marked path
//	anything else                           dropped and counted
//
// QUIC is passed on only from an address that the node map assigns to a node.
//
// # Concurrency
//
// Every method of Conn and PacketConn may be called by any number of
// goroutines, reads of the PacketConn one at a time. Callbacks of Config are
// called without a lock held, except Paired, and must return quickly. New
// starts nothing; Run returns when everything is gone.
package magicsock
