// Package routing joins overlay addresses and NodeIDs, and keeps the host's
// link, addresses and routes in the shape the overlay needs.
//
// It is not a router: it forwards nothing and knows no path. It answers "whose
// address is this" (Table) and makes the kernel hand overlay packets to our
// link (Host).
//
// # Addresses
//
// The IPv6 overlay address of a node is a pure function of its NodeID and the
// same everywhere:
//
//	fd6e:6f64:6574::/48 ‖ first 80 bits of SHA-256("nodetun-ipv6-v1" ‖ NodeID)
//
// The IPv4 overlay address is local to this host: a pool of its own
// (ChoosePool) in which each NodeID prefers the host part
//
//	1 + (first 4 bytes of SHA-256("nodetun-ipv4-v1" ‖ NodeID), big endian, modulo the usable hosts)
//
// and takes the next free one where that is taken. Usable hosts are those of
// the pool without its network and broadcast address. The last 1024 usable
// hosts (a quarter of a small pool) are the slice from which NodeIDs that are
// no peers are served (S19): at most 1024 of them are known at a time, in
// memory only, and peers displace them.
//
// # Host
//
// Host owns, on the link it was given, the up flag, the MTU, the own addresses
// and one route per overlay prefix. Run puts back whatever disappears, at once
// when the kernel announces it and after at most 1.5 s when it does not. It
// never shadows a prefix that another link is directly attached to: such a
// route is left out, and Problems says so. Loopback belongs to the host and is
// never touched. Only Linux is implemented; elsewhere Host says
// ErrNotSupported.
//
// # Concurrency
//
// All methods of Table may be called concurrently; Lookup and Entry take no
// lock and do not allocate. Host.Apply, Run and Undo belong to one goroutine
// at a time, Problems to anybody.
package routing
