// Package netcheck finds out how this host is seen from outside: whether UDP
// passes, which address and port a router shows for the socket, whether that
// depends on who is asked, which relay is nearest, and whether a login page is
// in the way.
//
// STUN packets leave by the socket of the data (Config.Send) and come back by
// it (Checker.HandleSTUN), since only so the mapping that is seen is the one
// that peers can use. Latencies are taken by STUN where a relay serves it, else
// by an HTTP request on a connection that is open already, else by ICMP, which
// needs root.
//
//	checker.go   what it is given, requests in flight, what came back
//	exchange.go  one request until it is answered
//	run.go       one report: what is waited for, and what stays as it was
//	servers.go   which STUN servers there are
//	probes.go    HTTP, login pages, hairpins, the router, ICMP
//	verdict.go   what follows from the mappings
//	order.go     which relay is best
//	stun.go      STUN packets (RFC 8489)
//
// # A run
//
// All STUN servers are asked at once by each IP version that the host has, four
// times within a second until they answer. Two answers for each version end the
// wait: other servers have 150 ms more then, relays known to be further away half
// as much again as they took last time, 0.8 s at most. A full run gives everything
// 3 s more and asks by HTTP and ICMP as well, looks for a login page, and whether
// the router sends packets to our own outer address back in (hairpin). Any other
// run asks those relays by HTTP that are silent by STUN, every few minutes or when
// that is new, and all of them when no STUN answer came for a second.
//
// # Mapping
//
// A NAT is "easy" when every destination sees the same address and port
// (endpoint-independent mapping, RFC 4787 section 4.1) and "hard" when it
// depends. Two answers from servers at different addresses are needed to tell;
// what peers say about us (Observe) counts only when there is one server.
//
// # Whom it believes
//
// An answer counts when it comes from the address that was asked and names one of
// the requests in flight, once. An address that nobody can have is refused. A
// server that lies about our address is believed as far as it is configured: two
// that differ make the NAT look hard.
//
// # What it does not do
//
// It opens no data sockets, keeps no mapping alive on purpose and decides
// nothing: the one who runs it does, from the Report.
//
// # Concurrency
//
// Run is called by one goroutine at a time; everything else by any. A Report is
// not changed once it was given out.
package netcheck
