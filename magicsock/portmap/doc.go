// Package portmap asks the router of this host for a port that is open from
// outside, by PCP (RFC 6887), NAT-PMP (RFC 6886) or UPnP IGD, keeps it while it
// is wanted, and gives it back.
//
// It is not told by anybody what a mapping is good for, and it does not find
// the router: that is Config.Gateway.
//
// # Life of a mapping
//
// Which protocols the router speaks is asked for all three at once; PCP is
// preferred to NAT-PMP, and that to UPnP. What was granted is renewed after
// half its life, and more often towards its end. The mapping is made anew when
// the port or the router changes, and when the router seems to have forgotten
// it: its clock of RFC 6887 8.5 and RFC 6886 3.6 went back, in an answer or in
// an announcement, or its UPnP device announced that it started. When Run ends
// the mapping is withdrawn.
//
// # Trust
//
// Only answers from the address that was asked count, for the nonce or the
// ports of the question; lifetimes are capped; an external address that cannot
// be one is refused. UPnP is spoken with the router's own address alone,
// whatever its description names, without redirects and with bounded bodies.
//
// # Concurrency
//
// A Client may be used by any number of goroutines, Run by one, once.
// Config.Changed is called by Run's goroutine without a lock held and must not
// wait for the client.
package portmap
