// Command relayload puts many clients on one relay over loopback and checks what
// the relay promises. scripts/relayload builds and calls it.
//
// First every client sends one packet a second to the next one: none may get lost,
// and a client may cost the relay 32 KiB of memory. Then a hundred clients flood one
// that does not read, while others go on talking: they may lose nothing.
package main
