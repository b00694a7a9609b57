// Package dns finds nodes by the DNS: the TXT records of _iroh.<z-base-32>.<origin>, as
// iroh-net does. Nothing of that is signed: what it finds are hints.
package dns
