// Package fec hides random loss of a path from QUIC by parity packets beside it. quic-go's
// congestion control takes every loss for a full queue: at 80 ms and 1 % of random loss one flow
// gets a twentieth of what the line carries. Packets that are lost at random are put together
// again here before QUIC misses them; where a queue overflows, or stands for long, QUIC is told by
// ECN instead.
//
// An [Encoder] numbers the packets of one path and adds up the parity of each block while they
// pass; it keeps no packet. A [Decoder] takes what arrives, puts together what is missing as
// soon as enough of a block is there, and holds nothing back. An [Estimator] tells from the gaps
// which loss is random and which is congestion, and how many parity packets a block should have:
// that is what the receiver asks for, in each packet that it sends itself.
//
// The package is pure: packets and times in, packets and wishes out. There is no socket, no
// clock and no goroutine, and no type is safe for concurrent use.
//
// # Wire format
//
//	data            0   1        5           7     8    12              14
//	                34  number4  sent time2  want  tag4 ECN 2b, len 14b QUIC packet …
//	parity          0   1        5      6      7     8    12
//	                35  first4   count  index  zero  tag4 parity …
//
// Numbers are big-endian, of the packet and of the first packet of the block; they begin at
// random on each path. The time is in units of 100 µs. want is the number of parity packets that
// the sender of the packet asks for with a full block, 0 to 16. A block has up to 64 data packets;
// index tells which of up to 16 parity packets this one is. Parity goes over everything from byte
// 12 on, shorter packets filled up with zeros: a Cauchy code over GF(256) (modulo x^8 + x^4 + x^3 +
// x^2 + 1). Parity packet i is the sum of each packet j of the block, from 0 on, divided by i xor
// (16 + j), and so does not depend on how many there are. ECN is coded too: a packet that came
// back without it would fail QUIC's validation.
//
// # Security
//
// What a packet holds is QUIC's to check: a wrong repair is a packet that does not open. The tag,
// SipHash-2-4 cut to four bytes with a key of each direction, keeps those out who do not have the
// connection: a forged gap would slow QUIC down. It covers header and the first 16 bytes of a
// data packet, and all of a parity packet, and is checked before anything is kept. Data packets go
// to QUIC whether their number is known or not, so that nobody takes the place of another one.
// Memory is bounded: 1024 packets, and the parity of 16 blocks.
package fec
