package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/nodetun/nodetun/identity"
)

// DefaultPort is the UDP port of a node that was told no other.
const DefaultPort = 41820

// Settings are those of nodetun.toml with the defaults filled in.
type Settings struct {
	// Name is this node's own name; empty means that of the host.
	Name string
	// Zone is the domain of all names.
	Zone   string
	Search bool
	// OnDemand is ssh, any or off (S19).
	OnDemand string
	// Port is the UDP port, 0 for any free one.
	Port uint16
	// Bind is the address the UDP sockets are bound to; zero for all.
	Bind netip.Addr
	// Relays is empty for none, and then NoRelay says whether that was asked
	// for ("none").
	Relays     []identity.RelayURL
	NoRelay    bool
	RelayToken string
	STUN       []string
	Discovery  string
	Publish    string
	DNS        string
	TUN        string
	// IPv4Pool is empty for a free one, none, or a prefix.
	IPv4Pool string
	// MTU of the TUN in bytes, 0 for auto.
	MTU     int
	TCP     string
	Records bool
	Punch   string
	Portmap bool
	MDNS    bool
	DHT     bool
	// SessionTimeout ends a connection from which nothing came.
	SessionTimeout time.Duration
	MetricsAddr    string
	LogLevel       string
	LogFormat      string
	// GroupMayTrust lets members of the group nodetun change peers (S25).
	GroupMayTrust bool
	// Idle are the keys that are set and have no effect in this version yet.
	Idle []string
}

// settingsFile is nodetun.toml as it stands; nil is a key that is not set.
type settingsFile struct {
	Name           *string   `toml:"name"`
	Zone           *string   `toml:"zone"`
	Search         *bool     `toml:"search"`
	OnDemand       *string   `toml:"on_demand"`
	Port           *int64    `toml:"port"`
	Bind           *string   `toml:"bind"`
	Relays         *[]string `toml:"relays"`
	RelayToken     *string   `toml:"relay_token"`
	STUN           *[]string `toml:"stun"`
	Discovery      *string   `toml:"discovery"`
	Publish        *string   `toml:"publish"`
	DNS            *string   `toml:"dns"`
	TUN            *string   `toml:"tun"`
	IPv4Pool       *string   `toml:"ipv4_pool"`
	MTU            any       `toml:"mtu"`
	TCP            *string   `toml:"tcp"`
	Records        *bool     `toml:"records"`
	Punch          *string   `toml:"punch"`
	Portmap        *bool     `toml:"portmap"`
	MDNS           *bool     `toml:"mdns"`
	DHT            *bool     `toml:"dht"`
	SessionTimeout *string   `toml:"session_timeout"`
	MetricsAddr    *string   `toml:"metrics_addr"`
	LogLevel       *string   `toml:"log_level"`
	LogFormat      *string   `toml:"log_format"`
	GroupMayTrust  *bool     `toml:"group_may_trust"`
}

// idleKeys have no effect in this version.
var idleKeys = []string{"relay_token", "stun", "discovery", "publish", "tcp", "records", "punch", "portmap", "mdns", "dht", "metrics_addr"}

// DefaultSettings are those of an empty file.
func DefaultSettings() Settings {
	return Settings{
		Zone: "node.internal", OnDemand: "ssh", Port: DefaultPort, Publish: "relay", DNS: "auto", TUN: "nodetun0",
		TCP: "auto", Records: true, Punch: "normal", Portmap: true, MDNS: true, SessionTimeout: 12 * time.Hour,
		MetricsAddr: "off", LogLevel: "info", LogFormat: "text",
	}
}

// SettingsKeys lists the keys of nodetun.toml in the order of the manual.
func SettingsKeys() []string {
	var keys []string
	for field := range reflect.TypeFor[settingsFile]().Fields() {
		keys = append(keys, field.Tag.Get("toml"))
	}
	return keys
}

// LoadSettings reads nodetun.toml. A file that does not exist is an empty one.
// Errors about its content are a *FileError.
func LoadSettings(path string) (Settings, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return DefaultSettings(), nil
	}
	if err != nil {
		return Settings{}, err
	}
	return ParseSettings(path, data)
}

// ParseSettings reads the content of nodetun.toml; path is for errors only.
func ParseSettings(path string, data []byte) (Settings, error) {
	var file settingsFile
	if err := decode(path, data, &file, SettingsKeys()); err != nil {
		return Settings{}, err
	}
	s := DefaultSettings()
	if key, err := s.fill(&file); err != nil {
		return Settings{}, &FileError{Path: path, Line: lineOf(data, key, 0), Key: key, Err: err}
	}
	s.Idle = file.idle()
	return s, nil
}

// fill takes over what is set, and names the key that cannot be.
func (s *Settings) fill(f *settingsFile) (key string, err error) {
	take(&s.Name, f.Name)
	take(&s.Zone, f.Zone)
	take(&s.Search, f.Search)
	take(&s.RelayToken, f.RelayToken)
	take(&s.STUN, f.STUN)
	take(&s.Discovery, f.Discovery)
	take(&s.TUN, f.TUN)
	take(&s.IPv4Pool, f.IPv4Pool)
	take(&s.Records, f.Records)
	take(&s.Portmap, f.Portmap)
	take(&s.MDNS, f.MDNS)
	take(&s.DHT, f.DHT)
	take(&s.MetricsAddr, f.MetricsAddr)
	take(&s.GroupMayTrust, f.GroupMayTrust)
	for _, choice := range []struct {
		key     string
		to      *string
		value   *string
		choices []string
	}{
		{"on_demand", &s.OnDemand, f.OnDemand, []string{"ssh", "any", "off"}},
		{"publish", &s.Publish, f.Publish, []string{"relay", "all", "none"}},
		{"dns", &s.DNS, f.DNS, []string{"auto", "resolved", "networkmanager", "resolvconf", "file", "none"}},
		{"tcp", &s.TCP, f.TCP, []string{"auto", "streams", "packets"}},
		{"punch", &s.Punch, f.Punch, []string{"normal", "gentle", "off"}},
		{"log_level", &s.LogLevel, f.LogLevel, []string{"debug", "info", "warn", "error"}},
		{"log_format", &s.LogFormat, f.LogFormat, []string{"text", "json"}},
	} {
		take(choice.to, choice.value)
		if err := oneOf(*choice.to, choice.choices...); err != nil {
			return choice.key, err
		}
	}
	return s.fillParsed(f)
}

// fillParsed takes over the keys whose text means something else.
func (s *Settings) fillParsed(f *settingsFile) (key string, err error) {
	if f.Port != nil {
		if *f.Port < 0 || *f.Port > 65535 {
			return "port", fmt.Errorf("%d is no port (0 to 65535, 0 for any free one)", *f.Port)
		}
		s.Port = uint16(*f.Port)
	}
	if f.Bind != nil && *f.Bind != "" {
		if s.Bind, err = netip.ParseAddr(*f.Bind); err != nil {
			return "bind", fmt.Errorf("%q is no IP address", *f.Bind)
		}
	}
	if f.Relays != nil {
		if s.Relays, s.NoRelay, err = ParseRelays(*f.Relays); err != nil {
			return "relays", err
		}
	}
	if f.MTU != nil {
		if s.MTU, err = parseMTU(f.MTU); err != nil {
			return "mtu", err
		}
	}
	if f.SessionTimeout != nil {
		s.SessionTimeout, err = time.ParseDuration(*f.SessionTimeout)
		if err != nil || s.SessionTimeout < time.Minute {
			return "session_timeout", fmt.Errorf("%q is no duration of a minute or more (such as 12h)", *f.SessionTimeout)
		}
	}
	return "", nil
}

// ParseRelays reads a list of relay URLs; none says that "none" was asked for.
// An empty list is an empty result.
func ParseRelays(list []string) (relays []identity.RelayURL, none bool, err error) {
	if slices.Equal(list, []string{"none"}) {
		return nil, true, nil
	}
	for _, text := range list {
		if text == "none" {
			return nil, false, errors.New("none stands alone")
		}
		relay, err := identity.ParseRelayURL(text)
		if err != nil {
			return nil, false, err
		}
		if !slices.Contains(relays, relay) {
			relays = append(relays, relay)
		}
	}
	return relays, false, nil
}

// parseMTU reads "auto" or a number that IPv6 and netstack can live with.
func parseMTU(v any) (int, error) {
	switch v := v.(type) {
	case string:
		if v == "auto" {
			return 0, nil
		}
	case int64:
		if v >= 1280 && v <= 65000 {
			return int(v), nil
		}
	}
	return 0, fmt.Errorf("%v is neither auto nor 1280 to 65000", v)
}

// take copies what is set.
func take[T any](to *T, value *T) {
	if value != nil {
		*to = *value
	}
}

// idle lists the keys that are set and have no effect yet.
func (f *settingsFile) idle() []string {
	var idle []string
	v := reflect.ValueOf(f).Elem()
	for i := range v.NumField() {
		key := v.Type().Field(i).Tag.Get("toml")
		if slices.Contains(idleKeys, key) && !v.Field(i).IsNil() {
			idle = append(idle, key)
		}
	}
	return idle
}

// String shows the settings without secrets, for logs.
func (s Settings) String() string {
	return strings.Join([]string{"zone=" + s.Zone, fmt.Sprintf("port=%d", s.Port), "dns=" + s.DNS, "tun=" + s.TUN}, " ")
}
