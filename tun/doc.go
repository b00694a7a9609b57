// Package tun is the network device through which the kernel hands us the
// packets of the overlay.
//
// On Linux the device is read and written with the virtio-net header in front
// (package internal/vnet): one read is one packet as the kernel's TCP made it,
// up to 64 KiB, neither cut into segments nor with its checksum finished, and
// one write may be such a packet too. This is what makes the device fast. On
// other systems packets come singly and complete, with a zero header; a packet
// written with segmentation is cut here.
//
// The package opens the device, sets its name and MTU, and moves packets. On
// Linux it starts no goroutine, elsewhere one, which Close waits for. Addresses, routes and bringing the link up are package
// routing's; nothing comes out of Read before the link is up.
//
// Read may be called by one goroutine at a time, Write by any number, Close by
// any and at any time: it ends a Read that waits.
package tun
