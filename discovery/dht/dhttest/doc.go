// Package dhttest runs a little DHT within a test.
//
// It is for tests only.
package dhttest
