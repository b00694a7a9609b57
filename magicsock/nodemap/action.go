package nodemap

import (
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock/disco"
)

// Kind is what an [Action] asks for.
type Kind uint8

// Kinds of actions, with the fields that are set besides Kind and Node.
const (
	// SendPing: a disco ping with TxID to To, padded to Size bytes of UDP payload
	// (0: not padded).
	SendPing Kind = iota + 1
	// SendPong: a disco pong with TxID to To; Src is where the ping came from.
	SendPong
	// SendCallMeMaybe: our direct addresses through the relay To.Relay.
	SendCallMeMaybe
	// PathChanged: the path went from Before, BeforeRoute to After, Route, with
	// Reason. For logs and for whoever watches; the Map is already there.
	PathChanged
	// Resend: send the last QUIC packets of the node again to Route: the first
	// pong after an outage came, the direct address fell silent, or it answered
	// before the relay did.
	Resend
	// PunchSockets: our NAT is hard, the node's is not. Open up to Size more
	// sockets and ping To.UDP from each, with what PunchPing returns.
	PunchSockets
	// PunchSpray: the node's NAT is hard, ours is not. Ping up to Size ports of the
	// address of To.UDP, with what PunchPing returns.
	PunchSpray
	// Discover: no address that answers is known; ask discovery.
	Discover
	// Lengthened: the path has become longer for good, and QUIC is to measure it anew.
	Lengthened
)

// String returns the name of the kind.
func (k Kind) String() string {
	switch k {
	case SendPing:
		return "ping"
	case SendPong:
		return "pong"
	case SendCallMeMaybe:
		return "call-me-maybe"
	case PathChanged:
		return "path-changed"
	case Resend:
		return "resend"
	case PunchSockets:
		return "punch-sockets"
	case PunchSpray:
		return "punch-spray"
	case Discover:
		return "discover"
	case Lengthened:
		return "lengthened"
	}
	return "unknown"
}

// Action is something the driver has to do. It is one flat value, so that a
// slice of them is reused without allocation.
type Action struct {
	Kind Kind
	Node identity.NodeID
	To   Addr
	Src  Addr
	TxID disco.TxID
	Size int

	Before      ConnType
	BeforeRoute Route
	After       ConnType
	Route       Route
	Reason      Reason
}
