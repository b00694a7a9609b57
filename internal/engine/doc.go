// Package engine is the meeting place of the two worlds: the host side, which
// knows IP addresses and flows, and the node side, which knows NodeIDs and
// paths. It owns the two walks through the tunnel.
//
// A packet that is not TCP: link.go reads it from the TUN, classify.go gives
// its verdict, datagram.go puts it into a QUIC DATAGRAM of the peer's session.
// On the far side datagram.go takes it out, check.go judges it, and the link
// gets it.
//
// A TCP connection: netstack ends it at the TUN, flow.go opens a QUIC stream
// for it, the far side checks and dials before the local handshake completes,
// and two copies run until both directions have ended. While the peer is away
// what the host sends is taken in, and when it is back retry.go has the host try
// again at once (internal/outage).
//
// peer.go holds what is known of one peer, session.go one QUIC connection to
// it, dial.go how sessions come up and which of two stays.
//
// What the package is not: it chooses no path (magicsock), stores nothing
// (internal/config) and changes nothing on the host (routing, dnsmap).
//
// All methods of Engine may be called concurrently, but SetPeers by one caller at a
// time. No lock but peer.mu is held with another, and nothing is held while a
// callback, a send or a dial runs.
package engine
