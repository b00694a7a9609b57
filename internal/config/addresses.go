package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/atomicfile"
)

// Addresses is what one run learnt and the next one wants to know. Losing it
// loses no peer.
type Addresses struct {
	// Pool is the IPv4 pool that IPv4 comes from, zero for none.
	Pool netip.Prefix `json:"pool,omitzero"`
	// IPv4 are the overlay addresses of this node and its peers, as this host
	// numbers them.
	IPv4 map[identity.NodeID]netip.Addr `json:"ipv4,omitempty"`
	// Self is where this node could be found, for tickets while it is down.
	Self LastGood `json:"self,omitzero"`
	// Peers is where peers were found last.
	Peers map[identity.NodeID]LastGood `json:"peers,omitempty"`
	// Signed is the timestamp of the newest packet that this node published.
	Signed uint64 `json:"signed,omitempty"`
}

// LastGood is where one node was found last, the best address first.
type LastGood struct {
	Direct []netip.AddrPort  `json:"direct,omitempty"`
	Relay  identity.RelayURL `json:"relay,omitzero"`
	Seen   time.Time         `json:"seen,omitzero"`
	// Signed is the timestamp of the newest packet of the node, in microseconds since 1970.
	Signed uint64 `json:"signed,omitempty"`
}

// Addr returns the address of the node, as the endpoint takes it.
func (l LastGood) Addr(id identity.NodeID) identity.NodeAddr {
	return identity.NodeAddr{ID: id, Relay: l.Relay, Direct: l.Direct}
}

// AddressFile is the file addresses.json of one state directory.
type AddressFile struct{ path string }

// NewAddressFile names the file; it touches nothing.
func NewAddressFile(stateDir string) *AddressFile {
	return &AddressFile{filepath.Join(stateDir, "addresses.json")}
}

// Load reads the file; one that does not exist is empty. Errors about its
// content are a *FileError.
func (f *AddressFile) Load() (Addresses, error) {
	data, err := readFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return Addresses{}, nil
	}
	if err != nil {
		return Addresses{}, err
	}
	var a Addresses
	if err := json.Unmarshal(data, &a); err != nil {
		line, key := jsonPlace(data, err)
		return Addresses{}, &FileError{Path: f.path, Line: line, Key: key, Err: fmt.Errorf("%w", err)}
	}
	return a, nil
}

// Save replaces the file.
func (f *AddressFile) Save(a Addresses) error {
	data, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(f.path, append(data, '\n'), 0o600)
}

// jsonPlace finds the line and the key of an error; 0 and "" when not known.
func jsonPlace(data []byte, err error) (line int, key string) {
	offset := int64(-1)
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
	case errors.As(err, &kind):
		offset, key = kind.Offset, kind.Field
	}
	if offset < 0 || offset > int64(len(data)) {
		return 0, key
	}
	return 1 + bytes.Count(data[:offset], []byte{'\n'}), key
}
