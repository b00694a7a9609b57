// Package relay holds the names and bytes of the relay protocol, version 3, as
// iroh-net 0.28.1 and 0.35 speak it: frames, batches, the login, and the map
// of relays a node knows. It opens no connection and starts no goroutine;
// relayclient and relayserver do.
//
// A relay forwards packets between nodes that are logged in to it, each named
// by its NodeID. What it forwards is QUIC or disco, encrypted end to end.
//
// # Bytes
//
// On a stream (after the HTTP upgrade "iroh derp http") a frame is
//
//	u8 type || u32 big-endian body length || body
//
// and on a WebSocket one binary message
//
//	u8 type || body
//
// The types and their bodies:
//
//	 2 ClientInfo     C->S  "RELAY" F0 9F 94 91 || key 32 || signature 64 || message
//	 4 SendPacket     C->S  destination 32 || payload <= 65536
//	 5 RecvPacket     S->C  source 32 || payload <= 65536
//	 6 KeepAlive      S->C  empty
//	 7 NotePreferred  C->S  01 home, 00 not
//	 8 PeerGone       S->C  key 32
//	12 Ping           both  8 bytes
//	13 Pong           both  the 8 bytes of the ping
//	14 Health         S->C  text
//	15 Restarting     S->C  u32 reconnect in ms || u32 try for ms
//
// The first frame of a client is ClientInfo; its message is the protocol
// version as a varint (03) and the signature covers only the message. A server
// answers a good login with nothing. Any other type is an error.
//
// The payload of a packet is a batch of datagrams, each written as
//
//	u16 little-endian length || datagram
//
// # Concurrency
//
// Queue is safe for concurrent use; a Reader and a Liveness belong to one
// goroutine each; everything else is values and functions.
package relay
