package magicsock

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/nodetun/nodetun/magicsock/nodemap"
	"github.com/nodetun/nodetun/magicsock/relayactor"
	"github.com/nodetun/nodetun/magicsock/udpconn"
)

// Metrics are counts since the Conn was made.
type Metrics struct {
	// Payload bytes of QUIC.
	SendUDP, SendRelay, RecvUDP, RecvRelay uint64
	// Packets of QUIC that were dropped on receipt: from an address of no node.
	UnknownSource uint64
	// Packets that are nothing known, or malformed.
	RecvGarbage uint64
	// STUN packets received.
	RecvSTUN uint64
	// Batches that had nowhere to go, and batches cut short by S7.
	NoRoute, Limited uint64
	// Sends that the system or the relay's queue refused.
	SendErrors, RelayDropped uint64
	// Packets sent again after an outage.
	Resent uint64
	// Packets that left and came in two halves, and those that were too large
	// for the path with no other way.
	SentCut, RecvCut, TooLarge uint64
	// Packets sent in the form of package fec, and parity packets; those received, the packets
	// that were repaired by them, those dropped to tell QUIC of congestion, and those that no key opens.
	SentCoded, SentParity, RecvCoded, RecvParity, Repaired, CodedDropped, BadCoded uint64
	// Pings sent to get through a hard NAT.
	SentPunch uint64

	// Disco packets received, those of senders not admitted (S6), those lost
	// to a full queue, those whose key is no key and those that did not open.
	RecvDisco, NotAdmitted, DiscoDropped, BadKey, BadDisco uint64
	RecvPing, RecvPong, RecvCallMeMaybe                    uint64
	SentPing, SentPong, SentCallMeMaybe                    uint64

	// PathChanges counts the changes of path of all nodes by reason.
	PathChanges map[nodemap.Reason]uint64
	// Relays are the counts of the connections to relays.
	Relays relayactor.Counters

	// UDP4 and UDP6 are the counts of the sockets; GSO and GRO among them.
	UDP4, UDP6 udpconn.Stats
}

type counters struct {
	sendUDP, sendRelay, recvUDP, recvRelay                 atomic.Uint64
	unknownSource, recvGarbage, recvSTUN, noRoute, limited atomic.Uint64
	sendErrors, relayDropped, resent                       atomic.Uint64
	sentCut, recvCut, tooLarge, sentPunch                  atomic.Uint64
	sentCoded, sentParity, recvCoded, recvParity           atomic.Uint64
	repaired, codedDropped, badCoded                       atomic.Uint64
	recvDisco, notAdmitted, discoDropped, badKey, badDisco atomic.Uint64
	recvPing, recvPong, recvCallMeMaybe                    atomic.Uint64
	sentPing, sentPong, sentCallMeMaybe                    atomic.Uint64
	pathChanges                                            reasonCount
}

// reasonCount counts by reason; the zero value is ready.
type reasonCount struct {
	mu sync.Mutex // guards by
	by map[nodemap.Reason]uint64
}

func (r *reasonCount) add(reason nodemap.Reason) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.by == nil {
		r.by = make(map[nodemap.Reason]uint64)
	}
	r.by[reason]++
}

func (r *reasonCount) copy() map[nodemap.Reason]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.by)
}

// Metrics takes a snapshot of the counts.
func (c *Conn) Metrics() Metrics {
	s := &c.stats
	m := Metrics{
		SendUDP: s.sendUDP.Load(), SendRelay: s.sendRelay.Load(),
		RecvUDP: s.recvUDP.Load(), RecvRelay: s.recvRelay.Load(),
		UnknownSource: s.unknownSource.Load(), RecvGarbage: s.recvGarbage.Load(), RecvSTUN: s.recvSTUN.Load(),
		NoRoute: s.noRoute.Load(), Limited: s.limited.Load(),
		SendErrors: s.sendErrors.Load(), RelayDropped: s.relayDropped.Load(),
		Resent:  s.resent.Load(),
		SentCut: s.sentCut.Load(), RecvCut: s.recvCut.Load(), TooLarge: s.tooLarge.Load(), SentPunch: s.sentPunch.Load(),
		SentCoded: s.sentCoded.Load(), SentParity: s.sentParity.Load(), RecvCoded: s.recvCoded.Load(), RecvParity: s.recvParity.Load(),
		Repaired: s.repaired.Load(), CodedDropped: s.codedDropped.Load(), BadCoded: s.badCoded.Load(),
		RecvDisco: s.recvDisco.Load(), NotAdmitted: s.notAdmitted.Load(), DiscoDropped: s.discoDropped.Load(),
		BadKey: s.badKey.Load(), BadDisco: s.badDisco.Load(),
		RecvPing: s.recvPing.Load(), RecvPong: s.recvPong.Load(), RecvCallMeMaybe: s.recvCallMeMaybe.Load(),
		SentPing: s.sentPing.Load(), SentPong: s.sentPong.Load(), SentCallMeMaybe: s.sentCallMeMaybe.Load(),
		PathChanges: s.pathChanges.copy(), Relays: c.relays.Counters(),
	}
	for _, s := range c.socks {
		if s.Is6() {
			m.UDP6 = s.Stats()
		} else {
			m.UDP4 = s.Stats()
		}
	}
	return m
}
