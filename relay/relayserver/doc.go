// Package relayserver is a relay: it forwards packets between nodes that have
// logged in, speaks version 3 of the relay protocol as a plain upgrade and as
// a WebSocket, that of iroh 1.x as a WebSocket with its subprotocols, and answers
// STUN. Inside, all frames are of version 3.
//
// The HTTP port serves, over HTTP/1.1 only:
//
//	GET /relay, /derp                the upgrade, see package relay
//	GET /relay/probe, /derp/probe    200, empty, for latency probes
//	GET /ping                        the same
//	GET /healthz                     200, a word of JSON
//	GET /, /index.html               a page for people
//	GET /robots.txt
//	GET /generate_204                the captive portal test
//
// With certificates all but the last are on the HTTPS port, and the last, alone,
// on the port that Config.CaptiveAddr names.
//
// A client that answered a challenge takes the place of its node at once. The
// connection that had it waits behind: it may be that of another machine with the
// same key, and neither throws the other out. A client that logged in by what could
// be a replay has to wait until the old connection does not answer (S2).
//
// A client has a bounded queue of its own (relay.Queue), so that one that reads
// slowly loses packets of its own and holds up nobody. Each connection is
// served by two goroutines: the reader, which is that of net/http and pushes
// into the queues of others, and the writer.
//
// New checks the configuration, Listen binds, Run serves until its context
// ends; Run calls Listen if nobody has. Handler serves the same from any HTTP
// server, within a process. All methods may be called from any goroutine.
package relayserver
