// Package natlab is an internet in memory, with NATs of every kind, for tests with
// a clock of their own (testing/synctest).
//
//	lab := natlab.New(t)                       // the public network
//	nat := lab.Internet.NAT(natlab.Config{})   // a router, and the network behind it
//	host := nat.Inside.Host()                  // a machine there
//	magicsock.New(magicsock.Config{Underlay: host.Underlay(), …})
//
// A packet takes [Hop] from one network to the next. It is lost where no host has
// its address, where a NAT has no mapping for it, and where a filter refuses it.
// What a NAT does is said in the words of RFC 4787. TCP exists towards relays only,
// and is a pipe: no NAT stands in its way.
//
// It is for tests only.
package natlab
