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

// writeAtOnce leaves all to Write.
func writeAtOnce(net.Conn, []byte) (int, error) { return 0, nil }
