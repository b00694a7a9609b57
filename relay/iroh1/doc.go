// Package iroh1 holds the bytes of the relay protocol of iroh 1.x: a WebSocket with
// subprotocol iroh-relay-v2 or iroh-relay-v1, on which each binary message is one
// frame,
//
//	varint type || body
//
// the type as a QUIC varint (RFC 9000 16). It opens no connection and starts no
// goroutine; relayclient and relayserver do.
//
//	 0 ServerChallenge     S->C  challenge 16
//	 1 ClientAuth          C->S  key 32 || 40 || signature 64
//	 2 ServerConfirmsAuth  S->C  empty
//	 3 ServerDeniesAuth    S->C  LEB128 length || reason
//	 4 SendDatagram        C->S  destination 32 || ECN 1 || datagram
//	 5 SendBatch           C->S  destination 32 || ECN 1 || u16 big-endian segment size || datagrams
//	 6 RecvDatagram        S->C  source 32 || ECN 1 || datagram
//	 7 RecvBatch           S->C  source 32 || ECN 1 || u16 big-endian segment size || datagrams
//	 8 EndpointGone        S->C  key 32
//	 9 Ping                both  8 bytes
//	10 Pong                both  the 8 bytes of the ping
//	11 Health              S->C  text; v1 only
//	12 Restarting          S->C  u32 reconnect in ms || u32 try for ms
//	13 Status              S->C  1 byte; v2 only
//
// The numbers mean other things than in package relay. The datagrams of a batch
// have the segment size, the last one may be shorter.
//
// A server that could not tell who the client is from the header AuthHeader of its
// request, which binds the key to the TLS connection, sends a challenge first. In
// either case it says how the login ended.
package iroh1
