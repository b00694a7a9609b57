// Package udpconn holds the two UDP sockets of a node, one for each IP
// version, and moves batches of packets through them.
//
// It knows nothing of nodes, QUIC or disco: bytes go in with a destination and
// come out with a source. On Linux a send of several packets of one size is
// one system call (UDP_SEGMENT, "GSO"), packets that arrived in a row from one
// source come as one message (UDP_GRO), several messages come by one system
// call (recvmmsg), and the ECN bits travel in both directions. Elsewhere the
// same calls work packet by packet.
//
// A kernel or device that refuses UDP_SEGMENT (EIO) is remembered per socket,
// and packets go one by one from then on. Packets are never fragmented: one
// that is larger than the link (EMSGSIZE) is dropped and counted, which is what
// path MTU discovery above expects.
//
// # Concurrency
//
// A Conn may be written, rebound and closed by any number of goroutines; at
// most one may read. SetReadDeadline may be called at any time and wakes the
// reader. Nothing here starts a goroutine.
package udpconn
