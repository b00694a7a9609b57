package relay

import (
	"cmp"
	"slices"

	"github.com/nodetun/nodetun/identity"
)

// DefaultSTUNPort is the UDP port on which a relay serves STUN.
const DefaultSTUNPort = 3478

// Defaults are the relays that number 0, who make iroh, run for everybody, limited in
// rate and without promises. They speak the protocol of iroh 1.x and serve no STUN.
func Defaults() []identity.RelayURL {
	var list []identity.RelayURL
	for _, host := range []string{"use1-1", "usw1-1", "euc1-1", "aps1-1"} {
		url, err := identity.ParseRelayURL("https://" + host + ".relay.n0.iroh.link.")
		if err != nil {
			panic(err) // the texts above are good
		}
		list = append(list, url)
	}
	return list
}

// Node is one relay.
type Node struct {
	// URL is where the relay is reached.
	URL identity.RelayURL
	// STUNOnly relays forward no packets; they only tell addresses.
	STUNOnly bool
	// STUNPort is the UDP port of its STUN server; zero means DefaultSTUNPort.
	STUNPort uint16
}

// Map is a set of relays, sorted by URL. The zero value is empty; a Map does
// not change.
type Map struct{ nodes []Node }

// NewMap makes a map. Of two nodes with one URL the later counts; nodes
// without URL are left out.
func NewMap(nodes ...Node) Map {
	var m Map
	for _, n := range nodes {
		if n.URL.IsZero() {
			continue
		}
		if n.STUNPort == 0 {
			n.STUNPort = DefaultSTUNPort
		}
		i, found := slices.BinarySearchFunc(m.nodes, n, compareNodes)
		if found {
			m.nodes[i] = n
		} else {
			m.nodes = slices.Insert(m.nodes, i, n)
		}
	}
	return m
}

func compareNodes(a, b Node) int { return cmp.Compare(a.URL.String(), b.URL.String()) }

// Len returns the number of relays.
func (m Map) Len() int { return len(m.nodes) }

// Nodes returns a copy of the relays in the order of their URLs.
func (m Map) Nodes() []Node { return slices.Clone(m.nodes) }

// Get returns the relay with that URL.
func (m Map) Get(url identity.RelayURL) (Node, bool) {
	i, found := slices.BinarySearchFunc(m.nodes, Node{URL: url}, compareNodes)
	if !found {
		return Node{}, false
	}
	return m.nodes[i], true
}

// URLs returns the URLs of the relays that forward packets.
func (m Map) URLs() []identity.RelayURL {
	var urls []identity.RelayURL
	for _, n := range m.nodes {
		if !n.STUNOnly {
			urls = append(urls, n.URL)
		}
	}
	return urls
}

// Mode says which relays a node uses.
type Mode uint8

// The modes.
const (
	// ModeDefault uses the relays the program comes with.
	ModeDefault Mode = iota
	// ModeDisabled uses none.
	ModeDisabled
	// ModeCustom uses the relays that were configured.
	ModeCustom
)

// String returns the word used in settings.
func (m Mode) String() string {
	switch m {
	case ModeDisabled:
		return "none"
	case ModeCustom:
		return "custom"
	default:
		return "default"
	}
}

// Choose returns the relays to use in this mode.
func (m Mode) Choose(defaults, custom Map) Map {
	switch m {
	case ModeDisabled:
		return Map{}
	case ModeCustom:
		return custom
	default:
		return defaults
	}
}
