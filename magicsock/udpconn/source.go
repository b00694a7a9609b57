package udpconn

import (
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
)

// Local is where a packet arrived: at which address of this host, by which link. Zero
// where the system does not tell.
type Local struct {
	Addr netip.Addr
	Link int // its index
}

// Control is what the control messages of a send or a receive say.
type Control struct {
	Seg   int   // the segment size, 0 if there is none
	TOS   uint8 // the type of service or traffic class byte
	Local Local // where a packet arrived
}

// maxSources bounds how many destinations have a source of their own.
const maxSources = 256

// sources are the addresses from which packets to some destinations leave, where that
// is not the system's own choice. Reading it takes no lock.
type sources struct {
	mu  sync.Mutex // held while the map is replaced
	all atomic.Pointer[map[netip.AddrPort]netip.Addr]
}

// get returns the source for a destination, zero for the system's choice.
func (s *sources) get(to netip.AddrPort) netip.Addr {
	all := s.all.Load()
	if all == nil {
		return netip.Addr{}
	}
	return (*all)[to]
}

func (s *sources) set(to netip.AddrPort, from netip.Addr) {
	if s.get(to) == from {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	next := make(map[netip.AddrPort]netip.Addr)
	if all := s.all.Load(); all != nil {
		next = maps.Clone(*all)
	}
	delete(next, to)
	if from.IsValid() {
		for other := range next {
			if len(next) < maxSources {
				break
			}
			delete(next, other)
		}
		next[to] = from
	}
	if len(next) == 0 {
		s.all.Store(nil)
		return
	}
	s.all.Store(&next)
}

// SetSource has packets to a destination leave from an address of this host, which it
// ought to have; the zero Addr leaves the choice to the system again. A source that the
// system refuses is forgotten. Any goroutine may call it.
func (c *Conn) SetSource(to netip.AddrPort, from netip.Addr) { c.from.set(to, from) }
