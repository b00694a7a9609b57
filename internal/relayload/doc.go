// Command relayload puts many clients on one relay over loopback and checks what
// the relay promises. scripts/relayload builds and calls it.
//
// First every client sends one packet a second to the next one: none may get lost,
// and a client may cost the relay 32 KiB of memory. Then a hundred clients flood one
// that does not read, while others go on talking: they may lose nothing. Then, on relays of
// their own, a client sends all it can to others that read slowly, which must not take
// 160 MiB, and a host opens 2000 connections a second, while another one logs in within a
// second.
package main
