package nodemap

import (
	"net/netip"
	"time"

	"github.com/nodetun/nodetun/identity"
)

// Cause says why a node is not reachable.
type Cause uint8

// Causes. CauseNone means that nothing is known to be wrong.
const (
	CauseNone      Cause = iota
	CauseNoAddress       // no direct address and no relay is known
	CauseNoAnswer        // no packet of the node ever came, at least two pings went out
	CauseSilent          // the node was heard before and no longer answers
	CauseOther           // its addresses answer as other nodes
	CausePathMTU         // it answers small pings only, and no relay is known
)

// RemoteInfo is a snapshot of what is known about a node. Times are zero when
// the thing never happened.
type RemoteInfo struct {
	ID     identity.NodeID
	Mapped netip.AddrPort // the address QUIC uses for it

	// Conn, UDP and Relay are the path in use; ConnNone when the session is idle.
	Conn  ConnType
	UDP   netip.AddrPort
	Relay identity.RelayURL
	// RTT is the latency of the path in use (mixed: the smaller), 0 for unknown.
	RTT time.Duration

	// RelayInfo is the relay the node is known to use, zero URL for none.
	RelayInfo RelayInfo
	Addrs     []AddrInfo // sorted: the one in use, usable ones, then by last pong

	Active       bool // payload within the last 45 s
	LastSent     time.Time
	LastReceived time.Time
	LastHeard    time.Time // any packet of the node: payload, ping, pong, call-me-maybe

	// WantSince is when the oldest thing that wants an answer was sent, zero when
	// all has been answered. Unreachable is set once it is 10 s old.
	WantSince   time.Time
	Unreachable bool
	Cause       Cause
	// LastError is one line for people, empty when nothing is wrong.
	LastError string

	// Switches counts the changes of path, by reason in SwitchReasons.
	Switches      uint64
	SwitchReasons map[Reason]uint64
	LastSwitch    time.Time
	LastReason    Reason
}

// RelayInfo is what is known about a node's relay path.
type RelayInfo struct {
	URL         identity.RelayURL
	Latency     time.Duration
	LastPong    time.Time
	LastPayload time.Time
	LastHeard   time.Time
}

// AddrInfo is what is known about one direct address of a node.
type AddrInfo struct {
	Addr    netip.AddrPort
	Sources []Source
	Latency time.Duration // of the last pongs, 0 for none

	LastPing    time.Time // of ours
	LastPong    time.Time
	LastPayload time.Time
	LastHeard   time.Time
	LastControl time.Time
	ControlKind string // what LastControl was: "ping←", "pong←" or "call me"

	// Result is the outcome of the last attempts, for people.
	Result string
	// MTU is the largest UDP payload that arrives there; 0: no limit was found.
	MTU int

	Usable  bool            // payload may go there now
	Narrow  bool            // answers small pings only: the path carries no 1200 bytes
	Tries   int             // pings since the last pong
	GivenUp bool            // not pinged for now (S9)
	Owner   identity.NodeID // the node that answers there, zero for none yet
}
