package nodemap

import "time"

// Times and limits. Those that an iroh-net 0.28.1 peer can see are its own.
const (
	trustTime    = 6500 * time.Millisecond // a pong is good for so long (S7)
	sessionTime  = 45 * time.Second        // heartbeats go on after the last payload
	heartbeat    = 5 * time.Second         // gap of pings on the path of a session without payload to send
	sendingPing  = 3 * time.Second         // the same while payload is sent (S8)
	secondPing   = 250 * time.Millisecond  // after the first pong: a machine that has just started answers late
	retryPing    = time.Second             // the same while something is unanswered
	pingTimeout  = 5 * time.Second         // a later pong is ignored
	searchTime   = 25 * time.Second        // a session goes on looking for a direct path after the last payload
	discoveryGap = 5 * time.Second         // smallest gap of discovery pings on one address, of rounds, of call-me-maybes
	callMeWait   = 300 * time.Millisecond  // pings behind a hard NAT wait so long after the call-me-maybe that opens the other one
	callMeAnswer = 2 * time.Second         // smallest gap of a call-me-maybe that answers one
	upgradeGap   = 60 * time.Second        // gap of rounds that look for something better
	detourGap    = 10 * time.Second        // the same while the path leads through somebody's tunnel
	codedFrom    = 5 * time.Millisecond    // no packet is coded below this latency
	goodEnough   = 5 * time.Millisecond    // no such round at or below this latency

	probeDelay    = 500 * time.Millisecond // payload unanswered: first probe
	probeDelayOne = 700 * time.Millisecond // the same on a path whose peer sends nothing back
	suspectDelay  = 250 * time.Millisecond // after the probe is due: duplicate over the relay
	graceMin      = 250 * time.Millisecond // a ping counts as unanswered after twice the latency, within these
	graceMax      = time.Second
	suspectPing   = 1500 * time.Millisecond // pings unanswered, payload or not: duplicate
	leaveTime     = 3 * time.Second         // unanswered for so long: leave the path

	relayWarm     = 30 * time.Second // gap of pings through the relay that keep it ready while payload goes directly
	relayDownTime = 2 * time.Second  // a relay whose link is down for so long counts as none

	unreachableTime = 10 * time.Second
	causeTime       = 6 * time.Second // a cause is named from here on
	resendSilence   = time.Second     // the first sign of life after so much silence: send again

	paddedSize  = 1200             // UDP payload that a path must carry for QUIC
	codedExtra  = 14               // bytes that coding adds to a packet (package fec)
	cutSize     = 740              // the same for halves of the largest packet
	sizeStep    = 16               // the largest payload is searched for to so many bytes
	sizeTries   = 2                // pings of one size before it counts as too large in a search
	sizeDoubt   = 4                // the same before a path counts as small: one that loses packets is not
	sizeInUse   = 4                // packets of one size before that size is in use: fewer are QUIC's own probes
	sizeAgain   = 2 * time.Second  // a path that was just found to be small is tried with full packets again,
	sizeRetry   = 60 * time.Second // then after twice as long each time, up to this
	openTime    = 10 * time.Second // an address not heard for so long may be behind a NAT that has closed
	requalify   = 60 * time.Second // pings are padded when the last padded pong is older
	answeredFor = time.Hour        // an address that answered within it is no unknown one (S9)
	ownerHold   = 30 * time.Second // an owner with so fresh a pong keeps its ip:port (S8)
	returnDelay = 10 * time.Second // no return for mere latency to an address just left

	maxTries      = 10               // pings to an address that never answered …
	pauseTime     = 10 * time.Minute // … before it is left alone for so long (S9)
	nodePingRate  = 32               // such pings a second to one node …
	mapPingRate   = 256              // … and in all
	maxMessage    = 32               // addresses taken from one message
	maxPaths      = 64               // addresses kept of one node
	maxIdlePaths  = 20               // the same of an idle node that is no peer
	maxSources    = 4                // sources kept of one address
	maxInflight   = 128              // pings in flight to one node
	punchPackets  = 256              // of one attempt to get through a hard NAT …
	punchGap      = time.Minute      // … of which there is one in this time and node …
	punchDelay    = 2 * time.Second  // … after simpler means had their chance …
	punchEarly    = time.Second      // … for the side that is asked, whose clock began later
	trickle       = 8                // given-up addresses tried in one round of a paired node that is alive
	announceTries = 3                // pings to the addresses of an idle node after a network change

	maxIdleNodes  = 30  // idle nodes kept that are no peers
	maxStrangers  = 256 // nodes kept that only they know (S6)
	strangerTime  = 30 * time.Second
	pruneGap      = 5 * time.Second
	idlePathTime  = 120 * time.Second // no sign of life for so long: may go when over maxIdlePaths
	allowance     = 10                // packets to an address without a fresh pong …
	allowanceTime = 5 * time.Second   // … in this time, when no relay is known (S7)
	allowanceRate = 3                 // times the bytes received
	pendingGap    = 50 * time.Millisecond
	spinGuard     = 10 * time.Millisecond
)

const forever = time.Duration(1<<63 - 1)

// age returns the time since t, forever when t is zero.
func age(now, t time.Time) time.Duration {
	if t.IsZero() {
		return forever
	}
	return now.Sub(t)
}

// earlier returns the earlier of two times; zero means never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

// later returns the later of two times.
func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
