//go:build !race

package tun_test

import (
	"net"
	"testing"
)

// Under the race detector a sync.Pool forgets a part of what it is given, so this is not
// built with it.
func TestNetnsWriteDoesNotAllocate(t *testing.T) {
	ns, dev := open(t, "nt0")
	port := udp(t, ns).LocalAddr().(*net.UDPAddr).Port
	h, ip := datagram(port, make([]byte, 100))
	head, rest := ip[:28], ip[28:]
	if n := testing.AllocsPerRun(100, func() { _ = dev.Write(h, head, rest) }); n != 0 {
		t.Errorf("%v allocations per write", n)
	}
}
