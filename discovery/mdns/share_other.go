//go:build !unix

package mdns

import "syscall"

// share lets several programs have the port: Go asks for that by itself when it listens on
// a multicast address, not here.
func share(syscall.RawConn) error { return nil }
