package engine

import (
	"slices"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock/nodemap"
)

// State says how things stand with a peer.
type State string

// The states of a peer.
const (
	StateIdle        State = "idle"        // no connection, none wanted
	StateConnecting  State = "connecting"  // a dial runs
	StateConnected   State = "connected"   // a connection is up and answers
	StateUnreachable State = "unreachable" // nothing answers
	StateRefused     State = "refused"     // the peer said no, or we did
)

// PeerState is what the engine knows of one peer at one moment.
type PeerState struct {
	ID    identity.NodeID
	State State
	// Path is direct, relay, mixed or none; Endpoint the address or relay URL.
	Path, Endpoint string
	// Rx and Tx count payload: IP packets and the bytes of TCP flows.
	Rx, Tx uint64
	// Flows are the TCP flows that run.
	Flows int
	// Crowd is the port that has most of them when they are so many that more to that port
	// are refused, or soon will be, from Limit on; 0 else.
	Crowd uint16
	Limit int
	// RTT is QUIC's smoothed round-trip time, zero when not connected.
	RTT time.Duration
	// LastSeen is when something of the peer last arrived, zero for never.
	LastSeen  time.Time
	LastError string
	// TheirName is the name the peer proposes, TheirRules what it lets us do.
	TheirName  string
	TheirRules []string
	// TheirNAT is the kind of NAT before the peer, empty until it has told.
	TheirNAT string
	// OnDemand: it is no peer.
	OnDemand bool
}

// Peers returns the state of every peer, in the order of NodeIDs.
func (e *Engine) Peers() []PeerState {
	peers := e.sorted()
	states := make([]PeerState, 0, len(peers))
	for _, p := range peers {
		states = append(states, p.snapshot())
	}
	return states
}

func (p *peer) snapshot() PeerState {
	answering := p.answering()
	p.mu.Lock()
	defer p.mu.Unlock()
	state := PeerState{
		ID: p.id, State: p.stateLocked(answering), Rx: p.rx.Load(), Tx: p.tx.Load(), Flows: len(p.flows),
		OnDemand: p.access.Load().onDemand, LastError: p.lastErr, TheirName: p.theyName, TheirRules: slices.Clone(p.theirs),
	}
	if len(p.flows) >= crowdedTCP {
		state.Crowd, _ = p.crowdLocked()
		state.Limit = maxTCP - reservedTCP
	}
	if p.facts != nil {
		state.TheirNAT = p.facts.NAT.Mapping
	}
	if seen := p.lastSeen.Load(); seen != 0 {
		state.LastSeen = time.Unix(0, seen)
	}
	state.Path = nodemap.ConnNone.String()
	if s := p.current.Load(); s != nil {
		state.RTT = s.conn.RTT()
		state.Path, state.Endpoint = p.engine.path(p.id)
	}
	return state
}

func (p *peer) stateLocked(answering bool) State {
	switch {
	case p.access.Load().denied, p.refused:
		return StateRefused
	case p.current.Load() != nil && answering:
		return StateConnected
	case p.attempt != nil:
		return StateConnecting
	case p.current.Load() != nil, p.lastErr != "":
		return StateUnreachable
	default:
		return StateIdle
	}
}

// path names the way that packets to the node take now.
func (e *Engine) path(id identity.NodeID) (path, at string) {
	info, known := e.cfg.Endpoint.Socket().Remote(id)
	if !known {
		return "none", ""
	}
	switch info.Conn {
	case nodemap.ConnDirect, nodemap.ConnMixed:
		return info.Conn.String(), info.UDP.String()
	case nodemap.ConnRelay:
		return info.Conn.String(), info.Relay.String()
	default:
		return idlePath(&info)
	}
}

// idlePath names the path of a session without traffic: the one that the next
// packet will most likely take.
func idlePath(info *nodemap.RemoteInfo) (path, at string) {
	switch {
	case len(info.Addrs) > 0 && !info.Addrs[0].LastPong.IsZero():
		return nodemap.ConnDirect.String(), info.Addrs[0].Addr.String()
	case !info.RelayInfo.LastHeard.IsZero():
		return nodemap.ConnRelay.String(), info.RelayInfo.URL.String()
	default:
		return nodemap.ConnNone.String(), ""
	}
}
