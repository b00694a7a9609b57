package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/filecheck"
	"github.com/nodetun/nodetun/internal/plaintext"
)

// DefaultPort is the UDP port of a node that was told no other.
const DefaultPort = 41820

// Settings are the keys of nodetun.toml, with their defaults where they are not
// set. Flags set the same keys (Set). Default makes the value to begin with.
type Settings struct {
	// Name is this node's own name; empty means that of the host.
	Name string
	// Zone is the domain of all names; Search makes it a search domain too.
	Zone   string
	Search bool
	// OnDemand says what may dial a node that is no peer: ssh, any or off (S19).
	OnDemand string
	// Port is the UDP port, 0 for any free one.
	Port uint16
	// Bind are the addresses of the UDP sockets, one of each family at most;
	// port 0 means Port.
	Bind []netip.AddrPort
	// Relays is nil when nothing is set and empty when it is "none".
	Relays []identity.RelayURL
	// RelayToken is for the one relay that is set, and RelayTokenFile a file that
	// holds it.
	RelayToken     string
	RelayTokenFile string
	// STUN are servers, host:port, that tell how this node is seen from outside.
	STUN []string
	// Discovery is a URL, none, or empty for the default.
	Discovery string
	// Publish is relay, all or none.
	Publish string
	// DNS is auto, resolved, networkmanager, resolvconf, file or none.
	DNS string
	// TUN is the name of the interface.
	TUN string
	// IPv4Pool is empty for a free one, "none", or a prefix.
	IPv4Pool string
	// MTU of the TUN in bytes, 0 for auto.
	MTU int
	// Punch is normal, gentle or off.
	Punch string
	// FEC is auto, on or off.
	FEC     string
	Portmap bool
	MDNS    bool
	DHT     bool
	// Proxy is the URL of the proxy for relays, empty for that of the environment.
	Proxy string
	// Fwmark is the firewall mark of what leaves outside the tunnel, 0 for none.
	Fwmark uint32
	// SessionTimeout ends a connection from which nothing came.
	SessionTimeout time.Duration
	// FlowTimeout ends the TCP connections with a peer that does not answer for so long.
	FlowTimeout time.Duration
	// MetricsAddr is host:port, empty for off.
	MetricsAddr string
	// GroupMayTrust lets members of the group nodetun decide who is a peer, and what
	// peers may do (S25).
	GroupMayTrust bool
	// MetricsPublic lets MetricsAddr be one that others reach; MetricsProfiles serves
	// profiles there too.
	MetricsPublic, MetricsProfiles bool
	LogLevel                       slog.Level
	// LogFormat is text or json.
	LogFormat string
}

// DefaultFwmark keeps clear of the bits that Kubernetes, Tailscale and Cilium use.
const DefaultFwmark = 0x6e

// Default returns the settings of an empty file.
func Default() Settings {
	return Settings{
		STUN: []string{"stun.cloudflare.com:3478", "stun.l.google.com:19302"},
		Zone: "node.internal", OnDemand: "ssh", Port: DefaultPort, Publish: "relay", DNS: "auto", TUN: "nodetun0",
		Punch: "normal", FEC: "auto", Portmap: true, MDNS: true, Fwmark: DefaultFwmark, SessionTimeout: 12 * time.Hour, FlowTimeout: 2 * time.Hour,
		LogFormat: "text",
	}
}

// Keys lists the keys of nodetun.toml in the order of the manual.
func Keys() []string {
	table := settings()
	keys := make([]string, len(table))
	for i, entry := range table {
		keys[i] = entry.key
	}
	return keys
}

// Load reads nodetun.toml; a file that does not exist is an empty one. Errors
// about its content are a *FileError. One that holds a secret is refused when
// others can read it (S5).
func Load(path string) (Settings, error) {
	data, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Default(), nil
	}
	if err != nil {
		return Settings{}, err
	}
	doc, err := parse(path, data)
	if err != nil {
		return Settings{}, err
	}
	s := Default()
	for _, key := range sortedKeys(doc.root) {
		if err := s.Set(key, doc.root[key]); err != nil {
			return Settings{}, doc.errorAt(key, err)
		}
	}
	secret := ""
	if s.RelayToken != "" {
		secret = "relay_token"
	} else if u, err := url.Parse(s.Proxy); err == nil && u.User != nil {
		secret = "proxy"
	}
	if secret == "" {
		return s, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return Settings{}, err
	}
	return s, filecheck.Secret(path, secret+" in it", info)
}

// Set sets one key to a value as TOML or a flag has it: text, a list of texts,
// a number, true or false.
func (s *Settings) Set(key string, value any) error {
	table := settings()
	at := slices.IndexFunc(table, func(e setting) bool { return e.key == key })
	if at < 0 {
		return errUnknownKey(key, Keys())
	}
	return table[at].set(s, value)
}

// ErrTokenRelay is returned by Token when it is not clear whose the token is (S2).
var ErrTokenRelay = errors.New("relay_token is for one relay: set exactly one in relays")

// Token returns the token and the relay that it is for; an empty token for none. A
// file that others can read is refused (S5).
func (s *Settings) Token() (token string, relay identity.RelayURL, err error) {
	token = s.RelayToken
	if s.RelayTokenFile != "" {
		if token != "" {
			return "", relay, errors.New("relay_token and relay_token_file are both set")
		}
		if token, err = readToken(s.RelayTokenFile); err != nil {
			return "", relay, fmt.Errorf("relay_token_file: %w", err)
		}
	}
	if token == "" {
		return "", relay, nil
	}
	if len(s.Relays) != 1 {
		return "", relay, ErrTokenRelay
	}
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", relay, fmt.Errorf("%s has characters that no header can hold", tokenSource(s.RelayTokenFile))
	}
	return token, s.Relays[0], nil
}

// tokenSource names where the token came from.
func tokenSource(file string) string {
	if file != "" {
		return file
	}
	return "relay_token"
}

func readToken(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if err := filecheck.Secret(path, "the token", info); err != nil {
		return "", err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if data, err = plaintext.Clean(data); err != nil {
		return "", fmt.Errorf("%s %w", path, err)
	}
	return plaintext.Trim(string(data)), nil
}
