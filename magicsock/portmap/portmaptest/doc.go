// Package portmaptest is a router that maps ports, for tests: it speaks PCP,
// NAT-PMP and UPnP IGD at an address of this host, of a network namespace, or of a
// network in memory ([LAN]). What a mapping does is up to the test, see Options.Map.
// Requests are served by three goroutines that Close ends; all methods may be called
// concurrently.
package portmaptest
