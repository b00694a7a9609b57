// Package netcheck finds out how this host is seen from outside: whether UDP
// passes, which address and port a router shows for the socket, whether that
// depends on who is asked, which relay is nearest, and whether a login page is
// in the way.
//
// STUN packets leave by the socket of the data (Config.Send) and come back by
// it (Checker.HandleSTUN), since only so the mapping that is seen is the one
// that peers can use. Latencies are taken by STUN where a relay serves it, else
// by an HTTP request on a connection that is open already, else by ICMP.
//
// # Mapping
//
// A NAT is "easy" when every destination sees the same address and port
// (endpoint-independent mapping, RFC 4787 section 4.1) and "hard" when it
// depends. Two answers from different servers are needed to tell; what peers
// say about us (Observe) counts as one when there is only one server.
//
// # What it does not do
//
// It opens no data sockets, keeps no mapping alive on purpose and decides
// nothing: the one who runs it does, from the Report.
//
// # Concurrency
//
// Run is called by one goroutine at a time; everything else by any.
package netcheck
