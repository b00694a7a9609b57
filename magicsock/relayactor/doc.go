// Package relayactor keeps the live connections of a node to its relays.
//
// One link serves one relay. The home relay's link exists for as long as the
// relay is home and redials for ever; the others are made by the first Send
// that needs them and go after 60 s without one. What is sent goes by a
// connected link to the relay that was asked for, else by any connected link
// through which the peer was heard, else waits for the relay to be dialled.
//
// URLs that were not configured come from tickets, discovery and packets; they
// are dialled within the limits of S10 only. Packets from nodes that are not
// admitted are dropped before anything of them is read (S26).
//
// New starts nothing; Run owns every goroutine. All other methods may be
// called from any goroutine at any time and never block. Deliver and Changed
// are called without locks held.
package relayactor
