// Package netmon tells when the network of this host has changed in a way that
// matters to paths: an interface, one of its addresses or a default route came
// or went, or the machine has slept.
//
// On Linux the kernel's netlink messages are the trigger; elsewhere, and as a
// safety net, the state is compared from time to time. A trigger alone is no
// change: after a pause that lets bursts settle the state is read and compared
// with the one before, so that wireless statistics, renewed leases and
// containers that come and go stay unnoticed.
//
// It does not judge what a change means for a path and changes nothing itself.
//
// # Concurrency
//
// A Monitor may be used by any number of goroutines; Run by one, once. The
// netlink sockets are opened by New and belong to the network namespace of the
// thread that called it, whatever thread reads them.
package netmon
