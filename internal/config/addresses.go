package config

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"os"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/atomicfile"
)

// Addresses is addresses.json: what a run learnt and the next one wants to
// know. Losing it loses no peer.
type Addresses struct {
	// IPv4 are the overlay addresses of this node and its peers, as this host
	// numbers them.
	IPv4 map[identity.NodeID]netip.Addr `json:"ipv4"`
	// Peers is where peers were found last.
	Peers map[identity.NodeID]LastGood `json:"peers"`
}

// LastGood is where one peer was found last.
type LastGood struct {
	Addrs []netip.AddrPort  `json:"addrs,omitempty"`
	Relay identity.RelayURL `json:"relay,omitzero"`
}

// LoadAddresses reads addresses.json; a file that does not exist is empty.
func LoadAddresses(path string) (Addresses, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Addresses{}, nil
	}
	if err != nil {
		return Addresses{}, err
	}
	var a Addresses
	if err := json.Unmarshal(data, &a); err != nil {
		return Addresses{}, &FileError{Path: path, Line: jsonLine(data, err), Err: err}
	}
	return a, nil
}

// jsonLine finds the line of an error.
func jsonLine(data []byte, err error) int {
	var offset int64 = -1
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
	case errors.As(err, &kind):
		offset = kind.Offset
	}
	if offset < 0 || offset > int64(len(data)) {
		return 0
	}
	line := 1
	for _, b := range data[:offset] {
		if b == '\n' {
			line++
		}
	}
	return line
}

// Encode returns the content of the file.
func (a Addresses) Encode() ([]byte, error) {
	data, err := json.MarshalIndent(a, "", "  ")
	return append(data, '\n'), err
}

// WriteAddresses replaces addresses.json by the encoded addresses.
func WriteAddresses(path string, encoded []byte) error {
	return atomicfile.Write(path, encoded, 0o600)
}
