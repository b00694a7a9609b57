// Package natpmp is the codec of the NAT Port Mapping Protocol, RFC 6886. It
// sends nothing and keeps no state.
//
// Packets, all numbers in network byte order (RFC 6886 3.2, 3.3):
//
//	question  version 0 | opcode 0                                     2 bytes: external address
//	question  version 0 | opcode 1 UDP, 2 TCP | 0 0 | internal port u16
//	          | suggested external port u16 | lifetime u32, seconds    12 bytes: mapping
//	answer    version 0 | opcode + 128 | result u16 | epoch u32        8 bytes
//	          | external address, 4 bytes                              12 bytes in all
//	          | internal port u16 | external port u16 | lifetime u32   16 bytes in all
//
// Answers that are longer are read, as routers exist that pad them; of an answer
// with a result other than 0 the first 8 bytes suffice.
//
// Its functions may be called concurrently.
package natpmp
