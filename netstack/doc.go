// Package netstack ends TCP connections in user space: packets go in, flows
// come out, and the other way round. It wraps gVisor's TCP.
//
// A Stack has one link and answers for every address: a SYN to anywhere that
// is injected becomes a Pending, which its handler accepts, resets or answers
// with an ICMP error once it knows how the far side fares. Dial opens a
// connection from any address to any other. Which packets belong here is the
// caller's decision; so is every question of trust.
//
// The link speaks the virtio-net header of package internal/vnet in both
// directions: outgoing packets may be up to 64 KiB long, uncut and with partial
// checksum (the kernel, or vnet.Split, does the rest), and such packets are
// taken as they come from a TUN device.
//
// Only TCP lives here, and those ICMP errors that concern it. Everything else
// that is injected is dropped and counted, and nothing else is ever sent.
//
// All methods of all types may be called concurrently. A Flow allows one Read
// and one Write at a time side by side; further ones wait their turn. No flow
// has a goroutine of its own.
//
// What differs from a kernel at the far end: urgent data is delivered in line,
// TCP options are those of the local connection only, keep-alive probes are
// answered here, TIME_WAIT lasts a millisecond.
package netstack
