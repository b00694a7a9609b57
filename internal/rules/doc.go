// Package rules says what a peer may reach on this host: a list such as
// "tcp/22 icmp". It judges protocol and port only; who sends and whom it
// reaches is checked before (S13). Values are immutable and may be used
// concurrently.
package rules
