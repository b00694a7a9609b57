//go:build !linux

package relay

import (
	"net"
	"time"
)

// limitUnsent does nothing: the kernel keeps its own limit.
func limitUnsent(net.Conn, int) {}

// setUserTimeout does nothing: pings find out.
func setUserTimeout(net.Conn, time.Duration) {}
