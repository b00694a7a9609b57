package engine

import "sync/atomic"

// dropReason says why a packet or flow went no further.
type dropReason int

const (
	dropMalformed   dropReason = iota // the header chain is broken or refused (S14)
	dropSource                        // a source that is not the sender's (S13)
	dropDestination                   // a destination that is not ours (S13)
	dropForbidden                     // passes under no rule (S14)
	dropRules                         // the rules of the peer do not allow it
	dropCarrier                       // TCP as packets, from a peer that must use streams
	dropFragment                      // a fragment that waits, overlaps or is too much (S14)
	dropDecode                        // a datagram that does not decode
	dropQueue                         // a queue was full
	dropNoPeer                        // the address belongs to no peer
	dropForeign                       // the host sent from an address not its overlay address
	dropLocal                         // multicast and the like of this host
	dropUnreachable                   // the peer does not answer
	dropTooBig                        // longer than this host or the peer takes
	dropReasons                       // their number
)

// names are the keys of Engine.Counters.
var dropNames = [dropReasons]string{
	"malformed", "source", "destination", "forbidden", "rules", "carrier", "fragment",
	"decode", "queue", "no_peer", "foreign_source", "local", "unreachable", "too_big",
}

// counters count what happened since the start.
type counters struct {
	dropped [dropReasons]atomic.Uint64
}

func (c *counters) drop(reason dropReason) { c.dropped[reason].Add(1) }

// Counters returns how many packets and flows were dropped, by reason.
func (e *Engine) Counters() map[string]uint64 {
	all := make(map[string]uint64, dropReasons)
	for reason, name := range dropNames {
		all["dropped_"+name] = e.count.dropped[reason].Load()
	}
	return all
}
