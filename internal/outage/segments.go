package outage

import (
	"bytes"
	"net/netip"
	"sync"
	"sync/atomic"
)

// Segments keeps the last segment that the host sent of each TCP flow that stands
// still: one whose peer is away and of which no more is taken in. The zero value knows
// no such flow. All methods may be called concurrently.
type Segments struct {
	count atomic.Int32 // flows that stand still

	mu   sync.Mutex // guards last
	last map[Ends][]byte
}

// Ends are those of a TCP connection as packets of the host name them.
type Ends struct{ Src, Dst netip.AddrPort }

// maxQuoted is the longest segment that is kept. What is sent again is one.
const maxQuoted = 2 << 10

// Watch begins to keep the last segment of a flow.
func (s *Segments) Watch(e Ends) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		s.last = make(map[Ends][]byte)
	}
	if _, ok := s.last[e]; !ok {
		s.last[e] = nil
		s.count.Add(1)
	}
}

// None says that no flow stands still. It costs one load.
func (s *Segments) None() bool { return s.count.Load() == 0 }

// Note keeps a packet of the host, with data, if it belongs to a flow that stands still: it is
// the first that was not acknowledged, since no other is sent then.
func (s *Segments) Note(e Ends, ip []byte) {
	if len(ip) > maxQuoted {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.last[e]; ok {
		s.last[e] = bytes.Clone(ip)
	}
}

// Forget ends what Watch began and returns the last segment, nil for none.
func (s *Segments) Forget(e Ends) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	ip, ok := s.last[e]
	if ok {
		delete(s.last, e)
		s.count.Add(-1)
	}
	return ip
}
