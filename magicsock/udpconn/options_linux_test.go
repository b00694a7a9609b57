package udpconn

import (
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Every option is set on each socket, and again after a rebind.
func TestOptions(t *testing.T) {
	p, err := Open(Config{
		Bind4: netip.MustParseAddrPort("127.0.0.1:0"), Bind6: netip.MustParseAddrPort("[::1]:0"), Mark: 0x6e6f,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for _, when := range []string{"opened", "rebound"} {
		for _, c := range p.Conns() {
			raw, _ := c.SyscallConn()
			raw.Control(func(fd uintptr) {
				check := func(name string, level, option, want int) {
					t.Helper()
					if got, err := unix.GetsockoptInt(int(fd), level, option); err != nil || got < want {
						t.Errorf("%s %s: %s = %d, %v, want %d", when, c.network, name, got, err, want)
					}
				}
				check("gro", unix.IPPROTO_UDP, unix.UDP_GRO, 1)
				if c.Is6() {
					check("traffic class", unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1)
					check("mtu discovery", unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
					check("ipv6 only", unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
				} else {
					check("tos", unix.IPPROTO_IP, unix.IP_RECVTOS, 1)
					check("mtu discovery", unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
				}
				if os.Getuid() == 0 {
					check("mark", unix.SOL_SOCKET, unix.SO_MARK, 0x6e6f)
					check("receive buffer", unix.SOL_SOCKET, unix.SO_RCVBUF, BufferSize)
					check("send buffer", unix.SOL_SOCKET, unix.SO_SNDBUF, BufferSize)
				}
			})
		}
		if err := p.Rebind(); err != nil {
			t.Fatal(err)
		}
	}
}
