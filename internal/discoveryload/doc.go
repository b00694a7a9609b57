// Command discoveryload puts packets on a discovery server over loopback and asks for them by
// DNS, and prints how fast that goes and what it costs the server: processor time for each,
// and memory with all packets in the store.
package main
