// Package hosttest runs whole machines in network namespaces for tests: a Host
// has a nodetun of its own (the real program), sshd, ssh and iperf3; an
// Internet has two relays and the public network between them; a Router stands
// between hosts and that network and does to packets what one of the usual
// kinds of home, office and mobile network does.
//
// A test binary calls Main from its TestMain, which builds the program once, or
// takes the one that the environment variable NODETUN_TEST_BINARY names.
//
// Addresses:
//
//	203.0.113.0/24, 2001:db8::/64   the public network; .1 and .2 are relays
//	100.64.0.0/10                   between a carrier's router and its customers
//	192.168.n.0/24, 2001:db8:n::/64 behind a router
//
// Everything is removed when the test ends, and processes are ended by their
// own ids. The package is for tests only. It holds nothing of the product and
// imports nothing of it; its methods may be called by one goroutine at a time
// for each Host, Router and Internet, where nothing else is said.
package hosttest
