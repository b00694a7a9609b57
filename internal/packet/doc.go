// Package packet reads and rewrites IP packets as bytes: the walk over a header
// chain, IPv4 address translation with its checksums, ICMP errors, resets, and
// the reassembly of fragments that must be judged whole.
//
// It is pure: no sockets, no goroutines, no clock. It decides nothing; which
// packet may pass is internal/engine's business. All functions may be called
// concurrently on different packets; a Reassembler has one user at a time.
//
// Sources: RFC 791, RFC 792 (IPv4, ICMP), RFC 8200, RFC 4443 (IPv6, ICMPv6),
// RFC 9293 (TCP), RFC 768 (UDP), RFC 1624 (incremental checksums).
package packet
