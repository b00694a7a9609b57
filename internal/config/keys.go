package config

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/proxies"
)

// setting is one key of nodetun.toml.
type setting struct {
	key string
	set func(*Settings, any) error
}

// settings is the table of keys; what is not in it does not exist.
func settings() []setting {
	return []setting{
		{key: "name", set: text(func(s *Settings) *string { return &s.Name })},
		{key: "zone", set: text(func(s *Settings) *string { return &s.Zone })},
		{key: "search", set: flag(func(s *Settings) *bool { return &s.Search })},
		{key: "on_demand", set: oneOf(func(s *Settings) *string { return &s.OnDemand }, "ssh", "any", "off")},
		{key: "port", set: setPort},
		{key: "bind", set: setBind},
		{key: "relays", set: setRelays},
		{key: "relay_token", set: text(func(s *Settings) *string { return &s.RelayToken })},
		{key: "relay_token_file", set: text(func(s *Settings) *string { return &s.RelayTokenFile })},
		{key: "stun", set: setSTUN},
		{key: "discovery", set: setDiscovery},
		{key: "publish", set: oneOf(func(s *Settings) *string { return &s.Publish }, "relay", "all", "none")},
		{key: "dns", set: oneOf(func(s *Settings) *string { return &s.DNS }, "auto", "resolved", "networkmanager", "resolvconf", "file", "none")},
		{key: "tun", set: text(func(s *Settings) *string { return &s.TUN })},
		{key: "ipv4_pool", set: setPool},
		{key: "mtu", set: setMTU},
		{key: "punch", set: oneOf(func(s *Settings) *string { return &s.Punch }, "normal", "gentle", "off")},
		{key: "fec", set: oneOf(func(s *Settings) *string { return &s.FEC }, "auto", "on", "off")},
		{key: "portmap", set: flag(func(s *Settings) *bool { return &s.Portmap })},
		{key: "mdns", set: flag(func(s *Settings) *bool { return &s.MDNS })},
		{key: "dht", set: flag(func(s *Settings) *bool { return &s.DHT })},
		{key: "proxy", set: setProxy},
		{key: "fwmark", set: setFwmark},
		{key: "session_timeout", set: duration(func(s *Settings) *time.Duration { return &s.SessionTimeout })},
		{key: "flow_timeout", set: duration(func(s *Settings) *time.Duration { return &s.FlowTimeout })},
		{key: "metrics_addr", set: setMetrics},
		{key: "group_may_trust", set: flag(func(s *Settings) *bool { return &s.GroupMayTrust })},
		{key: "metrics_public", set: flag(func(s *Settings) *bool { return &s.MetricsPublic })},
		{key: "metrics_profiles", set: flag(func(s *Settings) *bool { return &s.MetricsProfiles })},
		{key: "log_level", set: setLevel},
		{key: "log_format", set: oneOf(func(s *Settings) *string { return &s.LogFormat }, "text", "json")},
	}
}

func text(field func(*Settings) *string) func(*Settings, any) error {
	return func(s *Settings, value any) (err error) {
		v, err := asText(value)
		if err == nil {
			*field(s) = v
		}
		return err
	}
}

func flag(field func(*Settings) *bool) func(*Settings, any) error {
	return func(s *Settings, value any) (err error) {
		v, err := asBool(value)
		if err == nil {
			*field(s) = v
		}
		return err
	}
}

func oneOf(field func(*Settings) *string, words ...string) func(*Settings, any) error {
	return func(s *Settings, value any) error {
		v, err := asText(value)
		if err != nil {
			return err
		}
		if !slices.Contains(words, v) {
			return fmt.Errorf("%q is unknown (use %s)", v, orList(words))
		}
		*field(s) = v
		return nil
	}
}

// orList joins words as people do.
func orList(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

func setPort(s *Settings, value any) error {
	n, ok := asInt(value)
	if !ok || n < 0 || n > math.MaxUint16 {
		return fmt.Errorf("%v is no port (use 1 to 65535, or 0 for any free one)", value)
	}
	s.Port = uint16(n)
	return nil
}

func setMTU(s *Settings, value any) error {
	if value == "auto" {
		s.MTU = 0
		return nil
	}
	n, ok := asInt(value)
	if !ok || n < 1280 || n > 65000 {
		return fmt.Errorf("%v is no mtu (use \"auto\" or 1280 to 65000)", value)
	}
	s.MTU = int(n)
	return nil
}

// asInt takes a number; a flag gives it as text.
func asInt(value any) (int64, bool) {
	switch v := value.(type) {
	case string:
		n, err := strconv.ParseInt(v, 10, 64)
		return n, err == nil
	case int64:
		return v, true
	case int:
		return int64(v), true
	default:
		return 0, false
	}
}

// setBind takes one address or two of different families, apart by commas,
// each with or without a port.
func setBind(s *Settings, value any) error {
	v, err := asText(value)
	if err != nil {
		return err
	}
	var bind []netip.AddrPort
	for _, part := range fields(v) {
		a, err := bindAddr(part)
		if err != nil {
			return err
		}
		if len(bind) == 1 && bind[0].Addr().Is4() == a.Addr().Is4() || len(bind) == 2 {
			return errors.New("takes one address of each family")
		}
		bind = append(bind, a)
	}
	s.Bind = bind
	return nil
}

func bindAddr(text string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.AddrPortFrom(a.Unmap(), 0), nil
	}
	a, err := netip.ParseAddrPort(text)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is no address (such as 192.0.2.7 or 192.0.2.7:41820)", text)
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), nil
}

func fields(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

// setRelays takes URLs; the single word none is an empty list.
func setRelays(s *Settings, value any) error {
	list, err := asList(value)
	if err != nil {
		return err
	}
	relays := []identity.RelayURL{}
	for _, element := range list {
		if element == "none" && len(list) == 1 {
			break
		}
		url, err := identity.ParseRelayURL(element)
		if err != nil {
			return err
		}
		if !slices.Contains(relays, url) {
			relays = append(relays, url)
		}
	}
	s.Relays = relays
	return nil
}

func setSTUN(s *Settings, value any) error {
	list, err := asList(value)
	if err != nil {
		return err
	}
	for _, element := range list {
		if _, _, err := net.SplitHostPort(element); err != nil {
			return fmt.Errorf("%q is no host:port", element)
		}
	}
	s.STUN = list
	return nil
}

func setDiscovery(s *Settings, value any) error {
	v, err := asText(value)
	switch {
	case err != nil:
		return err
	case v != "none" && !strings.HasPrefix(v, "https://") && !strings.HasPrefix(v, "http://"):
		return fmt.Errorf("%q is no URL (use https://… or none)", v)
	}
	if u, err := url.Parse(v); err != nil || v != "none" && u.Host == "" {
		return fmt.Errorf("%q is no URL (use https://… or none)", v)
	} else if u.User != nil { // it would be shown to everybody who asks for the status
		return errors.New("the URL of a discovery server holds no name and no password")
	}
	s.Discovery = v
	return nil
}

// setPool checks the form only: whether the pool is free depends on the host.
func setPool(s *Settings, value any) error {
	v, err := asText(value)
	if err != nil {
		return err
	}
	if p, err := netip.ParsePrefix(v); v != "" && v != "none" && (err != nil || !p.Addr().Is4()) {
		return fmt.Errorf("%q is no IPv4 prefix (use one such as 10.214.0.0/16, or none)", v)
	}
	s.IPv4Pool = v
	return nil
}

func setProxy(s *Settings, value any) error {
	v, err := asText(value)
	if err != nil {
		return err
	}
	if v != "" {
		if _, err := proxies.Parse(v); err != nil {
			return fmt.Errorf("%w", err)
		}
	}
	s.Proxy = v
	return nil
}

func setFwmark(s *Settings, value any) error {
	if text, ok := value.(string); ok {
		n, err := strconv.ParseUint(text, 0, 32)
		if err != nil {
			return fmt.Errorf("%q is no mark (use a number, such as \"0x6e\", or 0 for none)", text)
		}
		value = int64(n)
	}
	n, ok := asInt(value)
	if !ok || n < 0 || n > math.MaxUint32 {
		return fmt.Errorf("%v is no mark (use a number, such as \"0x6e\", or 0 for none)", value)
	}
	s.Fwmark = uint32(n)
	return nil
}

// duration takes one of a minute or more.
func duration(field func(*Settings) *time.Duration) func(*Settings, any) error {
	return func(s *Settings, value any) error {
		v, err := asText(value)
		if err != nil {
			return err
		}
		d, err := time.ParseDuration(v)
		if err != nil || d < time.Minute {
			return fmt.Errorf("%q is no duration of a minute or more (such as 12h)", v)
		}
		*field(s) = d
		return nil
	}
}

func setMetrics(s *Settings, value any) error {
	v, err := asText(value)
	if err != nil {
		return err
	}
	if v == "off" {
		v = ""
	}
	if _, _, err := net.SplitHostPort(v); v != "" && err != nil {
		return fmt.Errorf("%q is no host:port (or off)", v)
	}
	s.MetricsAddr = v
	return nil
}

func setLevel(s *Settings, value any) error {
	v, err := asText(value)
	if err != nil {
		return err
	}
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	level, ok := levels[v]
	if !ok {
		return fmt.Errorf("%q is unknown (use debug, info, warn or error)", v)
	}
	s.LogLevel = level
	return nil
}

func sortedKeys(m map[string]any) []string { return slices.Sorted(maps.Keys(m)) }
