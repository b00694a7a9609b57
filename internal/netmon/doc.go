// Package netmon tells when the network of this host has changed in a way that
// matters to paths: an interface got or lost its carrier, one of its addresses
// or a default route came or went, or the machine has slept.
//
// On Linux the kernel's netlink messages are the trigger; elsewhere, and as a
// safety net, the state is compared from time to time. A trigger alone is no
// change: after a pause that lets bursts settle the state is read and compared
// with the one before, so that wireless statistics, renewed leases and
// containers that come and go stay unnoticed.
//
// A link that is up but not running, because its cable is out, counts as one
// without addresses.
//
// Sleep is noticed in three ways, whichever is first: the kernel cancels a
// timer when the wall clock was set, which it also does on resume; the clocks
// that count sleep and those that do not drift apart; and a tick comes much
// later than asked, which sees the process stopped by SIGSTOP or the whole
// virtual machine paused.
//
// It does not judge what a change means for a path and changes nothing itself.
//
// # Concurrency
//
// A Monitor may be used by any number of goroutines; Run by one, once. The
// netlink sockets are opened by New and belong to the network namespace of the
// thread that called it, whatever thread reads them.
package netmon
