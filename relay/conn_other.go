//go:build !linux

package relay

import "net"

// limitUnsent does nothing: the kernel keeps its own limit.
func limitUnsent(net.Conn) {}
