package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/atomicfile"
	"github.com/nodetun/nodetun/internal/rules"
)

// Peer is one entry of peers.toml.
type Peer struct {
	ID identity.NodeID
	// Name is the petname, empty for none.
	Name string
	// Addrs and Relay are where the user said that it is; both may be empty.
	Addrs []netip.AddrPort
	Relay identity.RelayURL
	// Allow is what it may reach on this host; nothing at all means denied.
	Allow rules.Rules
}

// Label is how people know the peer: its petname, else its short NodeID.
func (p Peer) Label() string {
	if p.Name != "" {
		return p.Name
	}
	return p.ID.Short()
}

// peersFile is peers.toml as it stands.
type peersFile struct {
	Peer []peerEntry `toml:"peer"`
}

type peerEntry struct {
	ID    string    `toml:"id"`
	Name  string    `toml:"name,omitempty"`
	Addrs []string  `toml:"addrs,omitempty"`
	Relay string    `toml:"relay,omitempty"`
	Allow *[]string `toml:"allow"`
}

var peerKeys = []string{"peer", "id", "name", "addrs", "relay", "allow"}

const peersHeader = `# The peers of this node. nodetun rewrites this file ("nodetun peer add", "allow",
# "deny", "forget") and does not keep comments. An empty allow list denies the peer;
# without one it may use tcp/22 and icmp.

`

// LoadPeers reads peers.toml; a file that does not exist holds none. Errors
// about its content are a *FileError.
func LoadPeers(path string) ([]Peer, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return ParsePeers(path, data)
}

// ParsePeers reads the content of peers.toml; path is for errors only.
func ParsePeers(path string, data []byte) ([]Peer, error) {
	var file peersFile
	if err := decode(path, data, &file, peerKeys); err != nil {
		return nil, err
	}
	peers := make([]Peer, 0, len(file.Peer))
	for i, entry := range file.Peer {
		peer, key, err := entry.parse()
		if err == nil {
			key, err = clash(peers, peer)
		}
		if err != nil {
			return nil, &FileError{Path: path, Line: lineOf(data, key, entryLine(data, i)), Key: key, Err: err}
		}
		peers = append(peers, peer)
	}
	return peers, nil
}

// clash says whether a new entry cannot stand beside those before it.
func clash(peers []Peer, p Peer) (key string, err error) {
	for _, other := range peers {
		if other.ID == p.ID {
			return "id", fmt.Errorf("%s is listed twice", p.ID)
		}
		if p.Name != "" && strings.EqualFold(other.Name, p.Name) {
			return "name", fmt.Errorf("%q is the name of %s already", p.Name, other.ID)
		}
	}
	return "", nil
}

// entryLine is the line of the n-th [[peer]], 0 when it is written otherwise.
func entryLine(data []byte, n int) int {
	number := 0
	for line := range bytes.Lines(data) {
		number++
		if !strings.HasPrefix(strings.ReplaceAll(string(line), " ", ""), "[[peer]]") {
			continue
		}
		if n == 0 {
			return number
		}
		n--
	}
	return 0
}

// parse reads one entry, and names the key that cannot be read.
func (e peerEntry) parse() (p Peer, key string, err error) {
	if e.ID == "" {
		return p, "id", errors.New("every peer needs one")
	}
	if p.ID, err = identity.ParseNodeID(e.ID); err != nil {
		return p, "id", err
	}
	p.Name = e.Name
	for _, text := range e.Addrs {
		addr, err := ParseAddr(text)
		if err != nil {
			return p, "addrs", err
		}
		p.Addrs = append(p.Addrs, addr)
	}
	if e.Relay != "" {
		if p.Relay, err = identity.ParseRelayURL(e.Relay); err != nil {
			return p, "relay", err
		}
	}
	p.Allow = rules.Default()
	if e.Allow != nil {
		if p.Allow, err = rules.Parse(*e.Allow); err != nil {
			return p, "allow", err
		}
	}
	return p, "", nil
}

// ParseAddr reads ip:port of another machine.
func ParseAddr(s string) (netip.AddrPort, error) {
	addr, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is not ip:port (IPv6 as [addr]:port)", s)
	}
	ip := addr.Addr().Unmap()
	if addr.Port() == 0 || ip.IsUnspecified() || ip.IsMulticast() {
		return netip.AddrPort{}, fmt.Errorf("%s is not the address of a machine", s)
	}
	return netip.AddrPortFrom(ip, addr.Port()), nil
}

// UpdatePeers changes peers.toml: edit gets its entries and returns those that
// take their place. Other processes wait meanwhile. A file that is broken, and
// an edit that fails, change nothing. The new entries are returned.
func UpdatePeers(path string, edit func([]Peer) ([]Peer, error)) ([]Peer, error) {
	held, err := waitLock(path + ".lock")
	if err != nil {
		return nil, err
	}
	defer held.Release()
	peers, err := LoadPeers(path)
	if err != nil {
		return nil, err
	}
	peers, err = edit(peers)
	if err != nil {
		return nil, err
	}
	data, err := encodePeers(peers)
	if err != nil {
		return nil, err
	}
	return peers, atomicfile.Write(path, data, 0o600)
}

func encodePeers(peers []Peer) ([]byte, error) {
	var file peersFile
	for _, p := range peers {
		allow := p.Allow.Strings()
		entry := peerEntry{ID: p.ID.String(), Name: p.Name, Relay: p.Relay.String(), Allow: &allow}
		for _, addr := range p.Addrs {
			entry.Addrs = append(entry.Addrs, addr.String())
		}
		file.Peer = append(file.Peer, entry)
	}
	if len(file.Peer) == 0 {
		return []byte(peersHeader), nil
	}
	data, err := toml.Marshal(file)
	return slices.Concat([]byte(peersHeader), data), err
}
