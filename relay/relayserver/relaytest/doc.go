// Package relaytest starts relays within a test.
//
// It is for tests only.
package relaytest
