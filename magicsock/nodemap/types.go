package nodemap

import (
	"errors"
	"net/netip"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock/disco"
)

// Errors of [Map.Add].
var (
	// ErrSelf says that the node address is that of this node.
	ErrSelf = errors.New("connecting to ourself is not supported")
	// ErrNoAddresses says that neither a relay nor an acceptable direct address
	// is known for the node, the given ones included.
	ErrNoAddresses = errors.New("no usable address for node")
)

// Addr is one way to reach a node. Exactly one field is set; the zero Addr is
// none.
type Addr struct {
	UDP   netip.AddrPort
	Relay identity.RelayURL
}

// UDPAddr returns the Addr of a direct address.
func UDPAddr(a netip.AddrPort) Addr { return Addr{UDP: a} }

// RelayAddr returns the Addr of a relay.
func RelayAddr(u identity.RelayURL) Addr { return Addr{Relay: u} }

// IsZero says that a is no address.
func (a Addr) IsZero() bool { return !a.UDP.IsValid() && a.Relay.IsZero() }

// String returns the ip:port or the relay URL, "none" for the zero Addr.
func (a Addr) String() string {
	switch {
	case a.UDP.IsValid():
		return a.UDP.String()
	case !a.Relay.IsZero():
		return a.Relay.String()
	}
	return "none"
}

// Route says where a batch of payload to a node goes.
type Route struct {
	// Node is the receiver; zero when the mapped address belongs to nobody.
	Node identity.NodeID
	// UDP is the direct address to send to, zero for none.
	UDP netip.AddrPort
	// Relay is the relay to send through, zero for none. With UDP set as well
	// the payload goes both ways.
	Relay identity.RelayURL
	// Max is the largest UDP payload that arrives at UDP, 0 for no limit that
	// matters. Larger packets leave in halves if Cut is set, which no first flight
	// of a handshake may, else through Wide, zero for no relay.
	Max  int
	Cut  bool
	Wide identity.RelayURL
	// Coded says that packets may leave in the form of package fec: UDP alone takes them, whole,
	// and is so far away that QUIC is slow to make up for what is lost. Latency is its round trip.
	Coded   bool
	Latency time.Duration
	// Limit is the number of leading packets of the batch that may leave, 0 for
	// all of them. It is set only for an address without a fresh pong (S7); the
	// driver drops the rest.
	Limit int
}

// IsZero says that there is nowhere to send to: the payload is dropped.
func (r Route) IsZero() bool { return !r.UDP.IsValid() && r.Relay.IsZero() }

// way is the part of a route that makes it another path.
func (r Route) way() Route { return Route{Node: r.Node, UDP: r.UDP, Relay: r.Relay} }

// Features are what a node said that it can do, over its authenticated
// connection.
type Features struct {
	MTUProbe bool // it answers pings of any size (mtu-probe/1)
	Cut      bool // it joins packets that come in halves (cut/1)
	FEC      bool // it and this node code packets (fec/2)
}

// NAT is what is known about the NAT before a node.
type NAT struct {
	// Hard: each destination sees another port. Easy: all see the same. Neither:
	// not known.
	Hard, Easy bool
	// Step is how far the ports of a hard NAT are apart that counts them up, 0
	// for one that does not.
	Step int
	// Public are the addresses under which servers see the node.
	Public []netip.AddrPort
}

// Punch says how hard to try to get through NATs.
type Punch uint8

// Values of Punch.
const (
	// PunchNormal tries everything.
	PunchNormal Punch = iota
	// PunchGentle opens no extra sockets and pings no random ports.
	PunchGentle
	// PunchOff sends no call-me-maybe and heeds none.
	PunchOff
)

// Source says who named an address or a relay. Discovery services that are not listed
// here use their own names.
type Source string

// Sources known to this package.
const (
	SourceUDP   Source = "udp"   // a packet of the node came from there
	SourceRelay Source = "relay" // a call-me-maybe of the node named it
	SourceSaved Source = "saved" // the last good addresses on disk
	SourceApp   Source = "app"   // the user or the application gave it: never given up while payload is sent
	SourcePkarr Source = "pkarr" // a packet that the node signed, from a server
	SourceDHT   Source = "dht"   // the same, from the DHT
	SourceGuess Source = "guess" // nobody: where nodes of one configuration meet
)

// weight says whose word about a relay counts for more: the user's and the node's own,
// signed, before that of others, and that before a guess.
func (s Source) weight() int {
	switch s {
	case SourceApp, SourcePkarr, SourceDHT:
		return 2
	case SourceGuess:
		return 0
	default:
		return 1
	}
}

// ConnType is the kind of path that payload to a node takes.
type ConnType uint8

// Kinds of paths. ConnNone also stands for a session that is idle and for
// payload that goes to an address that has not answered yet.
const (
	ConnNone ConnType = iota
	ConnDirect
	ConnMixed
	ConnRelay
)

// String returns none, direct, mixed or relay.
func (c ConnType) String() string {
	switch c {
	case ConnDirect:
		return "direct"
	case ConnMixed:
		return "mixed"
	case ConnRelay:
		return "relay"
	}
	return "none"
}

// Reason says why the path of a node changed.
type Reason string

// Reasons of a change of path.
const (
	ReasonFirst   Reason = "first packet"          // payload after silence, over the relay
	ReasonPong    Reason = "pong"                  // the first pong of a usable address
	ReasonBetter  Reason = "lower latency"         // another address answers faster
	ReasonSilent  Reason = "no answer"             // payload or pings on the address went unanswered
	ReasonTrust   Reason = "trust lapsed"          // no pong for 6.5 s
	ReasonNetwork Reason = "network changed"       // [Map.NetworkChanged]
	ReasonSend    Reason = "sending failed"        // [Map.SendFailed]
	ReasonRelay   Reason = "relay learned"         // the relay of the node became known or changed
	ReasonOwner   Reason = "address taken or lost" // another node answers there, or it became our own
	ReasonIdle    Reason = "idle"                  // no payload for 45 s; not counted as a switch
	ReasonAlive   Reason = "answered again"        // the suspect address answered
	ReasonDown    Reason = "relay down or up"      // the link to the relay broke, or is back
)

// Config holds what a Map needs from outside.
type Config struct {
	// Self is this node; its own id is never entered.
	Self identity.NodeID
	// Peer says that a node is paired: never pruned, never a stranger. It is
	// called with the Map's guard held and must be quick. Nil means no node is.
	Peer func(identity.NodeID) bool
	// Denied says that a node is limited like a stranger, whatever is known of it. It is
	// called as Peer is. Nil means no node is.
	Denied func(identity.NodeID) bool
	// NewTxID makes random transaction ids. Nil means crypto/rand.
	NewTxID func() disco.TxID
	// Open says that every node is admitted (library endpoint): nodes that we
	// neither added nor are paired with are limited as S6 says.
	Open bool
	// Punch says how hard to try to get through NATs.
	Punch Punch
	// Detour reports whether an address is reached through a tunnel of somebody else,
	// which is a path only while there is no other. It must not block. Nil: none is.
	Detour func(netip.Addr) bool
	// LoopbackOK accepts loopback addresses of other nodes; set when a socket is
	// bound to loopback.
	LoopbackOK bool
}

// PathText returns the text of a path as iroh-net 0.28.1 shows it: direct(a),
// relay(u), mixed(udp: a, relay: u), none.
func PathText(c ConnType, r Route) string {
	switch c {
	case ConnDirect:
		return "direct(" + r.UDP.String() + ")"
	case ConnMixed:
		return "mixed(udp: " + r.UDP.String() + ", relay: " + r.Relay.String() + ")"
	case ConnRelay:
		return "relay(" + r.Relay.String() + ")"
	}
	return "none"
}
