// Package relayclient is one connection to a relay: the dial with both address
// families raced, TLS, the HTTP upgrade, the login, and then frames both ways
// until the connection dies.
//
// It does not reconnect and does not know which relay is home; the package
// magicsock/relayactor does.
//
// Dial gives a Client that is logged in and runs nothing yet. Run reads and
// writes until the connection ends. Send and the other methods may be called
// from any goroutine, before and while Run runs.
package relayclient
