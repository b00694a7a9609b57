package dnsmap

import (
	"fmt"
	"strings"
	"sync"

	"github.com/nodetun/nodetun/identity"
)

// NamesConfig is what Names knows from the start.
type NamesConfig struct {
	// Zone is the domain of all names; empty means DefaultZone. A final dot
	// does not matter.
	Zone string
	// Self is this node, SelfName its own name: a host name label, or empty.
	Self     identity.NodeID
	SelfName string
	// HostName is the name of this host, which no peer may have; empty for none.
	HostName string
}

// Names maps petnames to NodeIDs and back. A node has at most one petname.
type Names struct {
	cfg NamesConfig // SelfName and HostName in lower case, Zone with final dot

	mu     sync.RWMutex // guards the maps
	byName map[string]identity.NodeID
	byID   map[identity.NodeID]string
}

// NewNames knows this node's own name only. Errors wrap ErrBadZone or
// ErrBadPetname.
func NewNames(cfg NamesConfig) (*Names, error) {
	zone, err := parseZone(cfg.Zone)
	if err != nil {
		return nil, err
	}
	cfg.Zone = zone
	cfg.SelfName = toLower(cfg.SelfName)
	cfg.HostName, _, _ = strings.Cut(toLower(cfg.HostName), ".")
	if cfg.SelfName != "" && (!isLabel(cfg.SelfName) || len(cfg.SelfName) == nodeIDText) {
		return nil, badPetname(cfg.SelfName, "use 1 to 63 letters, digits and inner hyphens for the own name")
	}
	n := &Names{cfg: cfg, byName: make(map[string]identity.NodeID), byID: make(map[identity.NodeID]string)}
	if cfg.SelfName != "" {
		n.byName[cfg.SelfName] = cfg.Self
		n.byID[cfg.Self] = cfg.SelfName
	}
	return n, nil
}

// Zone returns the zone without a final dot, in lower case.
func (n *Names) Zone() string { return strings.TrimSuffix(n.cfg.Zone, ".") }

// Add names a peer, in place of the name it had. Errors wrap ErrBadPetname or
// ErrNameTaken, and change nothing.
func (n *Names) Add(name string, id identity.NodeID) error {
	if err := ValidPetname(name); err != nil {
		return err
	}
	name = toLower(name)
	if id == n.cfg.Self || name == n.cfg.HostName || name == n.cfg.SelfName {
		return fmt.Errorf("%w: %s is this host", ErrNameTaken, name)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if other, ok := n.byName[name]; ok && other != id {
		return fmt.Errorf("%w: %s is the name of %s", ErrNameTaken, name, other)
	}
	delete(n.byName, n.byID[id])
	n.byName[name] = id
	n.byID[id] = name
	return nil
}

// Remove takes a peer's name away. This node keeps its own.
func (n *Names) Remove(id identity.NodeID) {
	if id == n.cfg.Self {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.byName, n.byID[id])
	delete(n.byID, id)
}

// IDOf returns the node that has a petname, this node included. Case does not
// matter.
func (n *Names) IDOf(name string) (identity.NodeID, bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	id, ok := n.byName[toLower(name)]
	return id, ok
}

// Lookup finds the node of a full name in the zone, by petname or NodeID. Case and a final dot
// do not matter.
func (n *Names) Lookup(fqdn string) (identity.NodeID, bool) {
	label, ok := strings.CutSuffix(toLower(strings.TrimSuffix(fqdn, ".")), "."+n.Zone())
	if !ok {
		return identity.NodeID{}, false
	}
	return n.node(label)
}

// NameOf returns the petname of a node, this node included.
func (n *Names) NameOf(id identity.NodeID) (string, bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	name, ok := n.byID[id]
	return name, ok
}

// FQDN returns the full name of a node without a final dot: its petname in the
// zone, or its NodeID in the zone when it has none.
func (n *Names) FQDN(id identity.NodeID) string {
	name, ok := n.NameOf(id)
	if !ok {
		name = id.String()
	}
	return name + "." + n.Zone()
}

// node finds the NodeID that a label of the zone stands for.
func (n *Names) node(label string) (identity.NodeID, bool) {
	if id, ok := n.IDOf(label); ok {
		return id, true
	}
	if len(label) != nodeIDText {
		return identity.NodeID{}, false
	}
	id, err := identity.ParseNodeID(label)
	return id, err == nil
}
