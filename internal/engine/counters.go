package engine

import (
	"sync/atomic"

	"github.com/nodetun/nodetun/netstack"
)

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
	dropQueue                         // a queue was full, or too slow
	dropNoPeer                        // the address belongs to no peer
	dropForeign                       // the host sent from an address not its overlay address
	dropLocal                         // multicast and the like of this host
	dropUnreachable                   // the peer does not answer
	dropTooBig                        // longer than this host or the peer takes
	dropOnDemand                      // the node is no peer, and the packet may not dial it (S19)
	dropFlows                         // a TCP connection, because the peer has too many
	dropReasons                       // their number
)

// dropNames are the keys of Engine.Dropped.
var dropNames = [dropReasons]string{
	"malformed", "source", "destination", "forbidden", "rules", "carrier", "fragment",
	"decode", "queue", "no_peer", "foreign_source", "local", "unreachable", "too_big", "on_demand", "too_many_flows",
}

// counters count what happened since the start.
type counters struct {
	dropped [dropReasons]atomic.Uint64
	// evicted counts flows that are no TCP and lived when a newer one took their place.
	evicted atomic.Uint64
	// Bytes by carrier: of TCP flows, and of packets in datagrams.
	txStreams, rxStreams, txDatagrams, rxDatagrams atomic.Uint64
}

func (c *counters) drop(reason dropReason) { c.dropped[reason].Add(1) }

// both is two counters that count the same.
type both struct{ one, two *atomic.Uint64 }

func (b both) Add(n uint64) uint64 {
	b.two.Add(n)
	return b.one.Add(n)
}

// Carried are payload bytes by what carried them.
type Carried struct {
	TxStreams, RxStreams     uint64 // of TCP flows, in streams
	TxDatagrams, RxDatagrams uint64 // of IP packets, in datagrams
}

// Carried returns what was carried since the start.
func (e *Engine) Carried() Carried {
	c := &e.count
	return Carried{
		TxStreams: c.txStreams.Load(), RxStreams: c.rxStreams.Load(),
		TxDatagrams: c.txDatagrams.Load(), RxDatagrams: c.rxDatagrams.Load(),
	}
}

// Flows returns the counts of the TCP stack.
func (e *Engine) Flows() netstack.Counters { return e.stack.Counters() }

// Evicted returns how many living flows of packets were forgotten for newer ones.
func (e *Engine) Evicted() uint64 { return e.count.evicted.Load() }

// Dropped returns how many packets and flows went no further, by reason.
func (e *Engine) Dropped() map[string]uint64 {
	all := make(map[string]uint64, dropReasons)
	for reason, name := range dropNames {
		all[name] = e.count.dropped[reason].Load()
	}
	return all
}
