// Package dnsmap gives nodes names on this host: the petnames of peers, a
// small DNS server for the zone of the overlay, and the hook that makes the
// host's resolver ask it.
//
// It is not a resolver for the world. Everything outside the zone and the
// reverse zones of the overlay prefixes is refused, except in the modes where
// the server stands in resolv.conf for all names and passes the others on to
// the servers found there.
//
// # Names
//
// With the zone node.internal (Names.Zone):
//
//	<52 base32 characters>.node.internal   any NodeID; asking installs the mapping
//	<petname>.node.internal                a peer (ValidPetname, S21)
//	<own name>.node.internal               this node
//	<address>.ip6.arpa, .in-addr.arpa      the name of the node that has the overlay address
//
// Names are matched without regard to case and answered in the case of the
// question. A name that exists without a record of the asked type gets an
// empty answer with the SOA, so that it is remembered for 5 s only; a name
// that does not exist gets NXDOMAIN with the same SOA.
//
// # The host's resolver
//
// HostDNS sets one of these modes up, keeps it so, and takes it back:
//
//   - resolved: systemd-resolved over D-Bus, for the zone and the reverse zones
//     only (routing domains of our link);
//   - networkmanager, resolvconf, file: a marked block of one line in resolv.conf, first of
//     the nameservers; every other line, also those edited meanwhile, stays, but the option
//     rotate is out of force, by which others would be asked first. The first two are for
//     hosts where that program writes the file (both of Debian's resolvconf are meant):
//     the block is back a moment after it did;
//   - none: nothing is touched;
//   - auto: resolved when resolv.conf points to it; else the one for who writes the file;
//     nothing, with an advice in the Report, for programs that no mode knows. What comes
//     later, or goes, is followed.
//
// The other nameservers stay behind ours, so that a node that was killed takes nobody's
// names with it. musl, the C library of Alpine and OpenWrt, asks all nameservers at once
// and believes the first: on its hosts (Musl) ours is alone in the file. A program that
// brings musl to another host may hear that our names do not exist.
//
// # Concurrency
//
// Names may be used by any number of goroutines. Server.Listen and Run are
// called once, in this order; SetForward and Addr at any time. HostDNS.Apply, Run and
// Undo belong to one goroutine at a time; Servers to anybody.
package dnsmap
