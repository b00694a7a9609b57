// Package dns finds nodes by the DNS: the TXT records of _iroh.<z-base-32>.<origin>, as
// iroh-net does. Nothing of that is signed: what it finds are hints.
//
// It asks by itself, all servers of this host side by side, and so it does for the addresses
// of relays and other servers ([Client.Resolver]).
package dns
