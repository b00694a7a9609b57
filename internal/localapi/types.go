package localapi

import (
	"context"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock/netcheck"
)

// Backend is what can be asked of a node. Peers are named by NodeID, petname or
// the beginning of a NodeID. Errors wrap an *Error where its Kind matters.
type Backend interface {
	Status(context.Context) (Status, error)
	// Self says who this node is.
	Self(context.Context) (Self, error)
	Ticket(context.Context) (Ticket, error)
	// Whois finds the node that an overlay address or a name belongs to.
	Whois(ctx context.Context, addr string) (Whois, error)
	// HostKeys tells the ssh host keys that the node of a name vouches for.
	HostKeys(ctx context.Context, name string) (HostKeys, error)
	// Check says whether a peer may reach something here.
	Check(ctx context.Context, peer, rule string) (Check, error)
	// Ping makes one round trip through the tunnel.
	Ping(context.Context, PingRequest) (Ping, error)
	// Why explains the path to a peer.
	Why(ctx context.Context, peer string) (Why, error)
	// Lookup tells what each source of discovery says about a node, which need not be a
	// peer.
	Lookup(ctx context.Context, node string) (Lookup, error)
	// Hosts lists every host that the node contacts, and why.
	Hosts(context.Context) ([]HostUse, error)
	// Netcheck looks at the network around this node; progress, which may be nil,
	// is told each step.
	Netcheck(ctx context.Context, progress func(string)) (Netcheck, error)
	Peers(context.Context) ([]PeerEntry, error)
	// AddPeer, Forget, Allow and Deny are in force when they return (S16).
	AddPeer(context.Context, AddRequest) (AddResult, error)
	Forget(ctx context.Context, peer string) (PeerEntry, error)
	Allow(context.Context, RulesRequest) (PeerEntry, error)
	Deny(context.Context, RulesRequest) (PeerEntry, error)
	// Invite makes an invite; Join uses one that another node made. progress, which may be
	// nil, is told each step.
	Invite(context.Context, InviteRequest) (Invite, error)
	Join(ctx context.Context, r JoinRequest, progress func(string)) (JoinResult, error)
	// Pair meets the node on which the same code is typed and makes both peers of each
	// other, when ask, which is shown what the owners have to compare, says so on both
	// sides. progress may be nil.
	Pair(ctx context.Context, r PairRequest, progress func(string), ask func(PairQuestion) bool) (JoinResult, error)
	// Reload reads settings and peers again.
	Reload(context.Context) error
	// Down asks the node to end; it returns before that.
	Down(context.Context) error
}

// Status is all that `nodetun status` shows.
type Status struct {
	Self   Self    `json:"self"`
	Peers  []Peer  `json:"peers"`
	Relays []Relay `json:"relays"`
	// Published is where this node is made known.
	Published []Publication `json:"published"`
	Health    []Health      `json:"health"`
}

// Publication is one place where this node is made known.
type Publication struct {
	Server string `json:"server"`
	// Last is when that worked last, Error what the last attempt failed of; null for
	// neither.
	Last  *time.Time `json:"last"`
	Error *string    `json:"error"`
}

// Relay is a relay that this node is connected with or tries to be.
type Relay struct {
	URL  string `json:"url"`
	Home bool   `json:"home"`
	// State is connecting, connected or failed, since Since.
	State string    `json:"state"`
	Since time.Time `json:"since"`
	RTTms *float64  `json:"rtt_ms"`
	// LastError is why it failed.
	LastError *string `json:"last_error"`
	// Shared says that another machine uses this node's key there.
	Shared bool `json:"shared"`
	// Flooded says that nodes that are no peers send more than 64 KiB/s by it.
	Flooded bool `json:"flooded"`
}

// Self is this node. Pointers are nil where nothing is known.
type Self struct {
	ID      identity.NodeID `json:"id"`
	Name    string          `json:"name"`
	FQDN    string          `json:"fqdn"`
	IPv6    string          `json:"ipv6"`
	IPv4    *string         `json:"ipv4"`
	Version string          `json:"version"`
	PID     *int            `json:"pid"`
	// UptimeS is in seconds.
	UptimeS         *int64   `json:"uptime_s"`
	Relay           *string  `json:"relay"`
	RelayRTTms      *float64 `json:"relay_rtt_ms"`
	NAT             *string  `json:"nat"`
	UDP             *bool    `json:"udp"`
	DirectAddresses []string `json:"direct_addresses"`
	Zone            string   `json:"zone"`
	// DNS is how programs of this host learn names: resolved, networkmanager, resolvconf,
	// file, or none.
	DNS string `json:"dns"`
	// DNSServer is where this node answers for names, ip:port; empty for nowhere.
	DNSServer string `json:"dns_server"`
}

// Peer is one row of the status.
type Peer struct {
	ID   identity.NodeID `json:"id"`
	Name string          `json:"name"`
	FQDN string          `json:"fqdn"`
	IPv6 string          `json:"ipv6"`
	IPv4 *string         `json:"ipv4"`
	// State is idle, connecting, connected, unreachable or refused.
	State string `json:"state"`
	// Path is direct, relay, mixed or none; Endpoint the address or relay URL.
	Path     string   `json:"path"`
	Endpoint *string  `json:"endpoint"`
	Relay    *string  `json:"relay"`
	RTTms    *float64 `json:"rtt_ms"`
	// NAT is that before the peer: none, easy, hard, blocked or unknown; null until
	// it has told.
	NAT *string `json:"nat"`
	// Loss is the share, from 0 to 1, of what the peer sends that is lost on the way at random;
	// null where that is not measured.
	Loss *float64 `json:"loss"`
	// Repair is null where nothing is repaired.
	Repair    *Repair    `json:"repair"`
	RxBytes   uint64     `json:"rx_bytes"`
	TxBytes   uint64     `json:"tx_bytes"`
	Flows     int        `json:"flows"`
	LastSeen  *time.Time `json:"last_seen"`
	LastError *string    `json:"last_error"`
	Rules     []string   `json:"rules"`
	// ProposedName is what the peer calls itself, TheirRules what it lets us
	// reach; empty while nothing is known.
	ProposedName string   `json:"proposed_name"`
	TheirRules   []string `json:"their_rules"`
	// OnDemand: it is no peer; this host dialled it because a program asked for it.
	OnDemand bool `json:"on_demand"`
}

// Repair tells of the parity packets that make up for loss. Counts are of packets since the
// connection began.
type Repair struct {
	// Received came from the peer, and ParityReceived to repair what did not; Repaired was.
	Received       uint64 `json:"received"`
	ParityReceived uint64 `json:"parity_received"`
	Repaired       uint64 `json:"repaired"`
	// Dropped came and were dropped, so that the peer sends less: a queue on the way was full.
	Dropped    uint64 `json:"dropped"`
	Sent       uint64 `json:"sent"`
	ParitySent uint64 `json:"parity_sent"`
	// Asked and Wanted are how many parity packets go with 64 others now: of those that are
	// sent, and of those that come.
	Asked  int `json:"asked"`
	Wanted int `json:"wanted"`
	// TooFast: packets are lost because of the rate at which the peer sends. That is not hidden.
	TooFast bool `json:"too_fast"`
}

// HostKeys are the ssh host keys of a node.
type HostKeys struct {
	ID identity.NodeID `json:"id"`
	// Keys are "type base64", and sure to be that; none: it vouches for none.
	Keys []string `json:"keys"`
}

// Lookup is what the sources of discovery say about one node.
type Lookup struct {
	ID      identity.NodeID `json:"id"`
	Sources []LookupSource  `json:"sources"`
}

// LookupSource is one of them. Pointers are nil where nothing is known.
type LookupSource struct {
	// Name is saved, guess, pkarr, dns, mdns or dht.
	Name   string `json:"name"`
	Server string `json:"server"`
	// Off says why it is not asked; empty when it is.
	Off    string   `json:"off"`
	Found  bool     `json:"found"`
	TookMS *float64 `json:"took_ms"`
	Relay  *string  `json:"relay"`
	Addrs  []string `json:"addrs"`
	// Signed is when the node itself said so.
	Signed *time.Time `json:"signed"`
	Error  *string    `json:"error"`
}

// HostUse is a host that the node contacts.
type HostUse struct {
	Host string `json:"host"`
	// By is the protocol, with the port where Host has none.
	By  string `json:"by"`
	Why string `json:"why"`
	// Setting is what to change so that it is not contacted.
	Setting string `json:"setting"`
}

// Health is something that the user should know, with what helps.
type Health struct {
	// Level is warn or error.
	Level string `json:"level"`
	Text  string `json:"text"`
	Fix   string `json:"fix"`
}

// Ticket is where this node may be found.
type Ticket struct {
	Ticket          string          `json:"ticket"`
	ID              identity.NodeID `json:"id"`
	Relay           *string         `json:"relay"`
	DirectAddresses []string        `json:"direct_addresses"`
}

// Whois is the node that an address belongs to.
type Whois struct {
	ID   identity.NodeID `json:"id"`
	Name string          `json:"name"`
	FQDN string          `json:"fqdn"`
	IPv6 string          `json:"ipv6"`
	IPv4 *string         `json:"ipv4"`
	// Kind is self, peer or other.
	Kind string `json:"kind"`
}

// Check is an answer to the question whether a peer may reach something here.
type Check struct {
	Peer    string          `json:"peer"`
	ID      identity.NodeID `json:"id"`
	Asked   string          `json:"asked"`
	Allowed bool            `json:"allowed"`
	// Rule is the one that allows it, or those that do so together, empty for none;
	// Until is when that ends, null for never.
	Rule  string     `json:"rule"`
	Until *time.Time `json:"until"`
}

// PingRequest asks for one round trip.
type PingRequest struct {
	Peer string `json:"peer"`
	// TimeoutMS is how long to wait, in milliseconds.
	TimeoutMS int64 `json:"timeout_ms"`
}

// Ping is one round trip.
type Ping struct {
	ID       identity.NodeID `json:"id"`
	Peer     string          `json:"peer"`
	RTTms    float64         `json:"rtt_ms"`
	Path     string          `json:"path"`
	Endpoint string          `json:"endpoint"`
}

// Why explains the path to a peer.
type Why struct {
	ID   identity.NodeID `json:"id"`
	Peer string          `json:"peer"`
	// Path is direct, relay, mixed or none; Endpoint the address or relay URL.
	Path     string `json:"path"`
	Endpoint string `json:"endpoint"`
	// Cause and Remedy are a sentence each; Remedy is empty when nothing is wrong.
	Cause  string `json:"cause"`
	Remedy string `json:"remedy"`
	Self   Side   `json:"self"`
	// Their is null until the peer has told.
	Their *Side `json:"their"`
	// Candidates are the addresses of the peer, TheirCandidates ours as the peer
	// tried them, null when it did not answer.
	Candidates      []Candidate `json:"candidates"`
	TheirCandidates []Candidate `json:"their_candidates"`
	// Switches counts changes of path, SwitchReasons the same by reason.
	Switches      uint64            `json:"switches"`
	SwitchReasons map[string]uint64 `json:"switch_reasons"`
	LastSwitch    *time.Time        `json:"last_switch"`
	LastReason    string            `json:"last_reason"`
	// Loss and Repair are as those of Peer.
	Loss   *float64 `json:"loss"`
	Repair *Repair  `json:"repair"`
}

// Side is the network around one node.
type Side struct {
	// NAT is none, easy, hard, blocked or unknown.
	NAT string `json:"nat"`
	UDP bool   `json:"udp"`
	V4  bool   `json:"ipv4"`
	V6  bool   `json:"ipv6"`
	// Portmap is the protocol of its port mapping, empty for none.
	Portmap string `json:"portmap"`
	// Relay is its home relay, empty for none.
	Relay  string   `json:"relay"`
	Public []string `json:"public"`
}

// Candidate is one address that was tried.
type Candidate struct {
	Addr string `json:"addr"`
	// Kind says where it is known from.
	Kind       string  `json:"kind"`
	LastResult string  `json:"last_result"`
	RTTms      float64 `json:"rtt_ms"`
	// MTU is the largest UDP payload that arrives there, 0 when no limit was found.
	MTU int `json:"mtu"`
}

// Netcheck is the network around this node.
type Netcheck struct {
	// NAT is none, easy, hard, blocked or unknown.
	NAT string `json:"nat"`
	// Mapping is the protocol of the port mapping in use, empty for none, and
	// MappingAddr its address outside.
	Mapping     string `json:"mapping"`
	MappingAddr string `json:"mapping_addr"`
	// Proxies are those by which relays are reached.
	Proxies []Proxy `json:"proxies"`
	// LinksLeftOut are interfaces of this host whose addresses are not used.
	LinksLeftOut []LeftOut `json:"links_left_out"`
	*netcheck.Report
}

// Proxy is one proxy, without its password, and where it was named.
type Proxy struct {
	URL  string `json:"url"`
	From string `json:"from"`
}

// LeftOut is an interface that is no way to other machines, and why.
type LeftOut struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// PeerEntry is one entry of the list of peers.
type PeerEntry struct {
	ID    identity.NodeID `json:"id"`
	Name  string          `json:"name"`
	FQDN  string          `json:"fqdn"`
	IPv6  string          `json:"ipv6"`
	IPv4  *string         `json:"ipv4"`
	Addrs []string        `json:"addrs"`
	Relay *string         `json:"relay"`
	// Rules are what it may reach here now; none at all is denied. Grants are those of
	// them that end.
	Rules  []string `json:"rules"`
	Grants []Grant  `json:"grants"`
}

// Grant is what a peer may reach until a time.
type Grant struct {
	Rules []string  `json:"rules"`
	Until time.Time `json:"until"`
}

// Label is how people know the peer.
func (p PeerEntry) Label() string {
	if p.Name != "" {
		return p.Name
	}
	return p.ID.Short()
}

// AddRequest adds a peer or adds to what is known of one.
type AddRequest struct {
	// Peer is a NodeID or a ticket.
	Peer  string   `json:"peer"`
	Name  string   `json:"name,omitempty"`
	Addrs []string `json:"addrs,omitempty"`
	Relay string   `json:"relay,omitempty"`
	// Allow are the rules; nil for the default, or those that the peer has.
	Allow []string `json:"allow,omitempty"`
}

// AddResult says what AddPeer did.
type AddResult struct {
	Peer PeerEntry `json:"peer"`
	// Added is false when the peer was there before.
	Added bool `json:"added"`
	// Self is this node, which the other side must add too.
	Self identity.NodeID `json:"self"`
}

// InviteRequest makes an invite.
type InviteRequest struct {
	// Name is the petname that who joins gets here, empty for what it proposes; Allow are
	// its rules, nil for the default.
	Name  string   `json:"name,omitempty"`
	Allow []string `json:"allow,omitempty"`
	// ForS is how long it lasts, in seconds; 0 is an hour.
	ForS int64 `json:"for_s,omitempty"`
}

// Invite is one that was made.
type Invite struct {
	// Invite is its text, which holds a secret.
	Invite string          `json:"invite"`
	ID     identity.NodeID `json:"id"`
	Until  time.Time       `json:"until"`
	Rules  []string        `json:"rules"`
}

// JoinRequest uses an invite.
type JoinRequest struct {
	Invite string `json:"invite"`
	// Name is the petname that the node gets here, empty for what it proposes; Allow are
	// its rules, nil for the default.
	Name  string   `json:"name,omitempty"`
	Allow []string `json:"allow,omitempty"`
}

// JoinResult says whose peer this node is now.
type JoinResult struct {
	Peer PeerEntry `json:"peer"`
	// Added is false when the peer was there before.
	Added bool `json:"added"`
}

// PairRequest begins to pair.
type PairRequest struct {
	// Code is the one that the other node shows; empty makes one and waits.
	Code string `json:"code,omitempty"`
	// Name and Allow are as in JoinRequest.
	Name  string   `json:"name,omitempty"`
	Allow []string `json:"allow,omitempty"`
}

// PairQuestion is what both owners have to see.
type PairQuestion struct {
	// ID is for the answer.
	ID string `json:"id"`
	// Name is what the other node calls itself, Check the digits to compare.
	Name  string `json:"name"`
	Check string `json:"check"`
}

// pairAnswer answers a PairQuestion.
type pairAnswer struct {
	ID   string `json:"id"`
	Same bool   `json:"same"`
}

// RulesRequest names a peer and rules.
type RulesRequest struct {
	Peer  string   `json:"peer"`
	Rules []string `json:"rules,omitempty"`
	// Until is when what is allowed ends; nil: never.
	Until *time.Time `json:"until,omitempty"`
}
