// Package wire is the tunnel protocol, ALPN nodetun/1, as bytes: what two nodes
// say to each other inside one QUIC connection. It is pure: it reads from what
// it is given and starts nothing.
//
// Streams begin with a QUIC variable-length integer (RFC 9000 16), their kind:
//
//	0x01 uni   control: messages until the connection ends, hello first
//	0x10 bidi  TCP flow: header, answer, then bytes
//	0x11 bidi  request: one message up, one back
//
// A message is varint type, varint length, JSON object. A flow header is
//
//	flags u8 │ [source 4|16] │ source port u16 │ [destination 4|16] │ destination port u16
//
// with flag bit 0 IPv4, bit 1 source explicit, bit 2 destination explicit; an
// address that is left out is the overlay address of opener or acceptor. The
// answer is status u8, varint length, reason.
//
// Datagrams begin with a byte:
//
//	00  IPv6, both addresses implied: class u8 │ hop limit u8 │ next header u8 │ payload
//	01  IPv4, both implied: tos u8 │ ttl u8 │ protocol u8 │ id u16 │ flags and offset u16 │ payload
//	02  a whole IP packet
//	08  first part: id u16 │ total u16 │ bytes        09  second part, the same
//	20  ping: nonce u64 │ clock u64                   21  pong, the same
//
// Integers are big endian. IPv4 overlay addresses are local to each node; on
// the wire the sender's is 0.0.0.1 and the receiver's 0.0.0.2 (S17).
//
// All functions may be called concurrently; a Joiner has one user at a time.
package wire
