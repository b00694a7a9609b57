package pkarr

import (
	"errors"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/nodetun/nodetun/discovery"
	"github.com/nodetun/nodetun/identity"
)

// Signer signs what a node says of itself, with timestamps that never go back. Its
// methods may be called from any goroutine.
type Signer struct {
	key  *identity.SecretKey
	keep func(timestamp uint64)

	mu   sync.Mutex // guards the fields below
	last uint64     // timestamp of the newest packet
	kept uint64     // what keep got last
	said []string   // of the newest packet
}

// keepGap is how far the timestamps of packets that say the same may be from the one that
// was kept, in microseconds: who starts again with a clock that went back asks the server.
const keepGap = uint64(time.Hour / time.Microsecond)

// NewSigner returns the signer of a node whose newest packet has the timestamp last, 0 if
// there is none. keep is told the timestamps that a later run should know, before packets
// with them are used; nil: nobody is told. A run that does not know asks the server.
func NewSigner(key *identity.SecretKey, last uint64, keep func(timestamp uint64)) *Signer {
	return &Signer{key: key, keep: keep, last: last, kept: last}
}

// ErrWrongNode says that an address is not the signer's own.
var ErrWrongNode = errors.New("pkarr: the address is another node's")

// Sign says where this node is, as of now, or of a microsecond after the newest packet if
// that is later.
func (s *Signer) Sign(now time.Time, addr identity.NodeAddr) (Packet, error) {
	if addr.ID != s.key.NodeID() {
		return Packet{}, ErrWrongNode
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	timestamp := max(uint64(max(now.UnixMicro(), 1)), s.last+1)
	says := discovery.Records(addr)
	if s.keep != nil && (s.said == nil || timestamp > s.kept+keepGap || !slices.Equal(says, s.said)) {
		s.keep(timestamp)
		s.kept = timestamp
	}
	s.last, s.said = timestamp, says
	return sign(s.key, timestamp, addr)
}

// Raise notes that there is a packet of this node with the timestamp, of another run or
// of a clock that was ahead: the next one gets a later one.
func (s *Signer) Raise(timestamp uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if timestamp < math.MaxInt64 { // what no clock can show leaves no room for a later one
		s.last = max(s.last, timestamp)
	}
}
