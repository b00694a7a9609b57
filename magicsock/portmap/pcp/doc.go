// Package pcp is the codec of the Port Control Protocol, RFC 6887, as far as
// mappings of UDP over IPv4 need it: the opcodes ANNOUNCE and MAP. It sends
// nothing and keeps no state.
//
// Packets, all numbers in network byte order (RFC 6887 7, 11.1):
//
//	question  version 2 | opcode | 0 0 | lifetime u32, seconds | client address 16
//	answer    version 2 | opcode + 128 | 0 | result u8 | lifetime u32 | epoch u32 | 0, 12 bytes
//	MAP       nonce 12 | protocol u8 | 0, 3 bytes | internal port u16
//	          | external port u16 | external address 16
//
// The head has 24 bytes, MAP another 36. IPv4 addresses are mapped into IPv6.
// Options may follow; they are skipped.
//
// Its functions may be called concurrently.
package pcp
