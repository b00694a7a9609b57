package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/plaintext"
)

// Errors of FindPeer.
var (
	// ErrNoPeer says that no peer is called so.
	ErrNoPeer = errors.New("no such peer")
	// ErrAmbiguous says that a prefix stands for several peers.
	ErrAmbiguous = errors.New("more than one peer")
)

// minPrefix is the least number of characters that may stand for a NodeID.
const minPrefix = 4

// FindPeer returns the index of the peer that text names: a NodeID in base32 or
// hex, a petname, or the first four or more characters of a NodeID that only
// one peer has. Names may end in the zone. Errors wrap ErrNoPeer or
// ErrAmbiguous.
func FindPeer(peers []Peer, text, zone string) (int, error) {
	name := strings.ToLower(strings.TrimSuffix(plaintext.Trim(text), "."))
	name = strings.TrimSuffix(name, "."+zone)
	if id, err := identity.ParseNodeID(name); err == nil {
		return indexOf(peers, text, func(p Peer) bool { return p.ID == id })
	}
	if i, err := indexOf(peers, text, func(p Peer) bool { return p.Name != "" && strings.EqualFold(p.Name, name) }); err == nil {
		return i, nil
	}
	if len(name) < minPrefix {
		return -1, fmt.Errorf("%w: %q", ErrNoPeer, text)
	}
	return indexOf(peers, text, func(p Peer) bool {
		return strings.HasPrefix(p.ID.String(), name) || strings.HasPrefix(p.ID.Hex(), name)
	})
}

// indexOf finds the one peer that fits.
func indexOf(peers []Peer, text string, fits func(Peer) bool) (int, error) {
	found := -1
	for i, p := range peers {
		if !fits(p) {
			continue
		}
		if found >= 0 {
			return -1, fmt.Errorf("%w: %q is the beginning of %s and %s", ErrAmbiguous, text, peers[found].ID, p.ID)
		}
		found = i
	}
	if found < 0 {
		return -1, fmt.Errorf("%w: %q", ErrNoPeer, text)
	}
	return found, nil
}
