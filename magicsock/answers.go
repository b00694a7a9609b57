package magicsock

import (
	"net/netip"
	"sync"

	"github.com/nodetun/nodetun/magicsock/udpconn"
)

// maxAnswers bounds how many sources are remembered.
const maxAnswers = 1024

// answers has packets to a node leave from the address at which its pings arrive, where
// the system would choose another one: a floating address, a second uplink, one of
// several IPv6 addresses of a link. A firewall or a NAT before that node lets no others
// in.
type answers struct {
	c *Conn

	mu   sync.Mutex                       // guards seen
	seen map[netip.AddrPort]udpconn.Local // where the last ping of each source arrived
}

// arrived notes where a ping of an admitted node arrived.
func (a *answers) arrived(from netip.AddrPort, at udpconn.Local) {
	s := a.c.socks.reach(from.Addr())
	if s == nil || !at.Addr.IsValid() || !s.LocalAddr().Addr().IsUnspecified() {
		return
	}
	a.mu.Lock()
	known := a.seen[from] == at
	if len(a.seen) >= maxAnswers {
		clear(a.seen)
	}
	a.seen[from] = at
	a.mu.Unlock()
	if known {
		return
	}
	source := netip.Addr{}
	if a.c.monitor.MustName(from.Addr(), at.Addr, at.Link) {
		source = at.Addr
	}
	s.SetSource(from, source)
}

// forget has the next ping of each source looked at anew.
func (a *answers) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.seen)
}
