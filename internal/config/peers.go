package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/atomicfile"
	"github.com/nodetun/nodetun/internal/filecheck"
	"github.com/nodetun/nodetun/internal/plaintext"
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
	// Rules say what it may reach on this host for good, Grants what besides and for how
	// long; none in force at all means denied.
	Rules  rules.Rules
	Grants []Grant
}

// Grant is a permission that ends.
type Grant struct {
	Rules rules.Rules
	Until time.Time
}

// RulesAt returns what the peer may reach at a time.
func (p Peer) RulesAt(now time.Time) rules.Rules {
	r := p.Rules
	for _, g := range p.Grants {
		if now.Before(g.Until) {
			r = r.With(g.Rules)
		}
	}
	return r
}

// Ends returns when the next grant ends that is in force; zero: none is.
func (p Peer) Ends(now time.Time) (next time.Time) {
	for _, g := range p.Grants {
		if now.Before(g.Until) && (next.IsZero() || g.Until.Before(next)) {
			next = g.Until
		}
	}
	return next
}

// Grant returns the peer with one more permission until a time. Those that have ended go.
func (p Peer) Grant(r rules.Rules, until, now time.Time) Peer {
	p.Grants = slices.DeleteFunc(slices.Clone(p.Grants), func(g Grant) bool { return !now.Before(g.Until) })
	until = until.UTC().Truncate(time.Second)
	if at := slices.IndexFunc(p.Grants, func(g Grant) bool { return g.Until.Equal(until) }); at >= 0 {
		p.Grants[at].Rules = p.Grants[at].Rules.With(r)
	} else {
		p.Grants = append(p.Grants, Grant{r, until})
	}
	return p
}

// Without returns the peer with rules taken away, for good and for a while.
func (p Peer) Without(r rules.Rules) Peer {
	p.Rules = p.Rules.Without(r)
	var grants []Grant
	for _, g := range p.Grants {
		if g.Rules = g.Rules.Without(r); !g.Rules.Empty() {
			grants = append(grants, g)
		}
	}
	p.Grants = grants
	return p
}

// Label is how people know the peer: its petname, else its short NodeID.
func (p Peer) Label() string {
	if p.Name != "" {
		return p.Name
	}
	return p.ID.Short()
}

// Peers is the file peers.toml of one state directory.
type Peers struct{ path string }

// NewPeers names the file; it touches nothing.
func NewPeers(stateDir string) *Peers { return &Peers{filepath.Join(stateDir, "peers.toml")} }

// Path returns the path of the file.
func (f *Peers) Path() string { return f.path }

// Load reads the file; one that does not exist holds no peers. Errors about its
// content are a *FileError.
func (f *Peers) Load() ([]Peer, error) {
	data, err := readFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return f.parse(data)
}

// parse reads what is, or is about to be, in the file.
func (f *Peers) parse(data []byte) ([]Peer, error) {
	doc, err := parse(f.path, data)
	if err != nil {
		return nil, err
	}
	if isCutShort(data) {
		return nil, &FileError{Path: f.path, Err: errCutShort}
	}
	return readPeers(doc)
}

// errCutShort is about a file that a crash or a full disk left empty or halved. Without
// it a node would start without the peers that it had, and then save that.
var errCutShort = errors.New("was cut short, perhaps by a power cut or a full disk (put a backup of it back, or remove it to start without peers)")

// isCutShort reports whether a file that can be read is not whole: it holds nothing at
// all, which is never written, or nodetun wrote it and its last line is missing.
func isCutShort(data []byte) bool {
	text := plaintext.Trim(string(data))
	if strings.HasPrefix(text, peersMark) {
		return !strings.HasSuffix(text, peersEnd)
	}
	return text == "" || strings.HasPrefix(peersMark, text)
}

// ErrNotSaved is wrapped by the error of an edit that went well and could not be
// written.
var ErrNotSaved = errors.New("not saved")

// Edit changes the file: edit gets its entries and returns those that take
// their place, while other processes wait. A broken file, and an edit that
// fails, change nothing. The new entries are returned, also with ErrNotSaved.
func (f *Peers) Edit(edit func([]Peer) ([]Peer, error)) ([]Peer, error) {
	unlock, lockErr := lockFile(f.path + ".lock")
	if lockErr == nil {
		defer unlock()
	}
	peers, err := f.Load()
	if err != nil {
		return nil, err
	}
	if peers, err = edit(peers); err != nil {
		return nil, err
	}
	data, err := encodePeers(peers)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.path, err)
	}
	// What is written can be read again, or is not written.
	if peers, err = f.parse(data); err != nil {
		return nil, err
	}
	if lockErr == nil {
		lockErr = atomicfile.Write(f.path, data, 0o600)
	}
	if lockErr != nil {
		return peers, fmt.Errorf("%w: %w", ErrNotSaved, lockErr)
	}
	return peers, nil
}

// readPeers reads the entries of a parsed file.
func readPeers(doc *document) ([]Peer, error) {
	for _, key := range sortedKeys(doc.root) {
		if key != "peer" {
			return nil, doc.errorAt(key, errUnknownKey(key, []string{"peer"}))
		}
	}
	entries, ok := tables(doc.root["peer"])
	if !ok {
		return nil, doc.errorAt("peer", errors.New("write [[peer]], with two brackets"))
	}
	peers, seen := make([]Peer, 0, len(entries)), make(map[identity.NodeID]bool, len(entries))
	for i, entry := range entries {
		at := "peer." + strconv.Itoa(i) + "."
		p, key, err := readPeer(entry)
		if err != nil {
			return nil, doc.errorAt(at+key, err)
		}
		if seen[p.ID] {
			return nil, doc.errorAt(at+"id", fmt.Errorf("%s is there twice", p.ID))
		}
		seen[p.ID] = true
		peers = append(peers, p)
	}
	return peers, nil
}

// tables takes what TOML makes of [[peer]]; nothing at all is fine too.
func tables(value any) ([]map[string]any, bool) {
	if value == nil {
		return nil, true
	}
	list, ok := value.([]any)
	if !ok {
		return nil, false
	}
	entries := make([]map[string]any, len(list))
	for i, element := range list {
		if entries[i], ok = element.(map[string]any); !ok {
			return nil, false
		}
	}
	return entries, true
}

// readPeer reads one entry, and names the key that cannot be read.
func readPeer(entry map[string]any) (p Peer, key string, err error) {
	if _, given := entry["id"]; !given {
		return p, "id", errors.New("is missing")
	}
	p.Rules = rules.Default()
	for _, key := range sortedKeys(entry) {
		if err := p.set(key, entry[key]); err != nil {
			return p, key, err
		}
	}
	return p, "", nil
}

func (p *Peer) set(key string, value any) (err error) {
	var word string
	var list []string
	switch key {
	case "id", "name", "relay":
		word, err = asText(value)
	case "addrs", "allow", "allow_until":
		list, err = asList(value)
	default:
		err = errUnknownKey(key, []string{"id", "name", "addrs", "relay", "allow", "allow_until"})
	}
	if err != nil {
		return err
	}
	switch key {
	case "id":
		p.ID, err = identity.ParseNodeID(plaintext.Trim(word))
	case "name":
		// A bad name, or one taken by another peer, must not spoil the others:
		// whoever uses names judges them.
		p.Name = word
	case "relay":
		if word != "" {
			p.Relay, err = identity.ParseRelayURL(word)
		}
	case "addrs":
		p.Addrs, err = parseAddrs(list)
	case "allow":
		p.Rules, err = rules.Parse(list)
	case "allow_until":
		p.Grants, err = parseGrants(list)
	}
	return err
}

// MaxGrants bounds the grants of one peer.
const MaxGrants = 64

// parseGrants reads "2026-12-31T12:00:00Z tcp/22 icmp".
func parseGrants(list []string) (grants []Grant, err error) {
	if len(list) > MaxGrants {
		return nil, fmt.Errorf("has more than %d entries", MaxGrants)
	}
	for _, text := range list {
		when, what, _ := strings.Cut(strings.TrimSpace(text), " ")
		g := Grant{}
		if g.Until, err = time.Parse(time.RFC3339, when); err != nil {
			return nil, fmt.Errorf("%q does not begin with a time (write 2026-12-31T12:00:00Z tcp/22)", text)
		}
		if g.Rules, err = rules.Parse([]string{what}); err != nil {
			return nil, err
		}
		grants = append(grants, g)
	}
	return grants, nil
}

// MaxAddrs bounds the addresses of one peer, as S9 does.
const MaxAddrs = 64

func parseAddrs(list []string) ([]netip.AddrPort, error) {
	if len(list) > MaxAddrs {
		return nil, fmt.Errorf("has more than %d addresses", MaxAddrs)
	}
	var addrs []netip.AddrPort
	for _, text := range list {
		addr, err := ParseAddrPort(text)
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, addr)
	}
	return addrs, nil
}

// ParseAddrPort reads ip:port of another machine.
func ParseAddrPort(s string) (netip.AddrPort, error) {
	addr, err := netip.ParseAddrPort(strings.TrimSpace(s))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is no ip:port (such as 192.0.2.7:41820 or [2001:db8::7]:41820)", s)
	}
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	if !OfMachine(addr) {
		return netip.AddrPort{}, fmt.Errorf("%s is not the address of a machine", s)
	}
	return addr, nil
}

// OfMachine reports whether one machine may be reached at an address.
func OfMachine(a netip.AddrPort) bool {
	ip := a.Addr().Unmap()
	return a.IsValid() && a.Port() != 0 && !ip.IsUnspecified() && !ip.IsMulticast() && ip != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// The first and the last line of a file that nodetun wrote: a file that has one and
// not the other was cut short.
const (
	peersMark = "# The peers of this node, written by nodetun; the last line says that the file is whole."
	peersEnd  = "# end"
)

// peersHeader begins the file.
const peersHeader = peersMark + `
# The commands peer add, allow, deny and forget write it anew, without comments. An
# empty allow list denies the peer; a peer without one may use tcp/22 and icmp.

`

// peersFile and peerEntry are the file as it is written.
type peersFile struct {
	Peer []peerEntry `toml:"peer"`
}

type peerEntry struct {
	ID    string   `toml:"id"`
	Name  string   `toml:"name,omitempty"`
	Addrs []string `toml:"addrs,omitempty"`
	Relay string   `toml:"relay,omitempty"`
	Allow []string `toml:"allow"`
	Until []string `toml:"allow_until,omitempty"`
}

func encodePeers(peers []Peer) ([]byte, error) {
	if len(peers) == 0 {
		return []byte(peersHeader + peersEnd + "\n"), nil
	}
	var file peersFile
	for _, p := range peers {
		entry := peerEntry{ID: p.ID.String(), Name: p.Name, Relay: p.Relay.String(), Allow: p.Rules.Strings()}
		for _, addr := range p.Addrs {
			entry.Addrs = append(entry.Addrs, addr.String())
		}
		for _, g := range p.Grants {
			entry.Until = append(entry.Until, g.Until.UTC().Format(time.RFC3339)+" "+g.Rules.String())
		}
		file.Peer = append(file.Peer, entry)
	}
	data, err := toml.Marshal(file)
	return slices.Concat([]byte(peersHeader), data, []byte("\n"+peersEnd+"\n")), err
}

// maxFile bounds what is read of any file, far above what nodetun writes.
const maxFile = 64 << 20

// readFile reads a regular file of bearable size. Reading a named pipe would
// wait for a writer.
func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, &FileError{Path: path, Err: fmt.Errorf("is no regular file of at most %d MiB", maxFile>>20)}
	}
	if err := filecheck.Trusted(path, info); err != nil { // it decides who gets in (S5)
		return nil, err
	}
	return os.ReadFile(path)
}
