// Package vnet knows the virtio-net header that Linux puts in front of every
// packet of a TUN opened with IFF_VNET_HDR, and what follows from it: packets
// of up to 64 KiB that are still to be cut into segments (TSO, UDP GSO), and
// L4 checksums that cover the pseudo-header only.
//
// Layout, 10 bytes, little endian (virtio 1.2 section 5.1.6, without num_buffers):
//
//	0  flags        bit 0: checksum is partial, bit 1: checksum was verified
//	1  gso_type     0 none, 1 TCP over IPv4, 4 TCP over IPv6, 5 UDP; bit 7: ECN
//	2  hdr_len      bytes of headers (a hint; the kernel may say more)
//	4  gso_size     payload bytes of a segment
//	6  csum_start   where the L4 header, and the checksummed part, begins
//	8  csum_offset  where in the L4 header the checksum stands
//
// A partial checksum field holds the folded sum of the pseudo-header, not
// complemented; whoever finishes it adds everything from csum_start on.
//
// The package is pure: no goroutines, no allocation, no I/O. All functions may
// be called concurrently on different packets. It does not judge packets and
// knows nothing of IP beyond what cutting and summing needs.
package vnet
