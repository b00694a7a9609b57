package discoveryserver

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/nodetun/nodetun/internal/webserver"
)

// file is a configuration file.
type file struct {
	Addr             string   `toml:"addr"`
	DNSAddr          string   `toml:"dns_addr"`
	MetricsAddr      string   `toml:"metrics_addr"`
	Profiles         bool     `toml:"metrics_profiles"`
	Store            string   `toml:"store"`
	Origins          []string `toml:"origins"`
	NameServers      []string `toml:"name_servers"`
	Addresses        []string `toml:"addresses"`
	ACME             []string `toml:"acme"`
	ACMEContact      string   `toml:"acme_contact"`
	TLSCert          string   `toml:"tls_cert"`
	TLSKey           string   `toml:"tls_key"`
	TrustedProxies   []string `toml:"trusted_proxies"`
	DHT              bool     `toml:"dht"`
	Keep             string   `toml:"keep"`
	PutsPerSecond    int      `toml:"puts_per_second"`
	QueriesPerSecond int      `toml:"queries_per_second"`
	Conns            int      `toml:"conns"`
	ConnsPerPrefix   int      `toml:"conns_per_prefix"`
}

// Load reads a configuration file (TOML), and what it says of the store, for OpenStore.
// Errors name the file and, where one key is to blame, its line. A file with the password of
// a database is refused when others can read it.
func Load(path string) (cfg Config, store string, err error) {
	var f file
	if err := webserver.ReadTOML(path, &f); err != nil {
		return Config{}, "", err
	}
	if cfg, err = f.config(); err != nil {
		return Config{}, "", fmt.Errorf("%s: %w", path, err)
	}
	if u, err := url.Parse(f.Store); err == nil && u.User != nil {
		if _, secret := u.User.Password(); secret {
			if err := webserver.CheckSecret(path, "the password"); err != nil {
				return Config{}, "", err
			}
		}
	}
	return cfg, f.Store, nil
}

func (f *file) config() (cfg Config, err error) {
	cfg = Config{
		Addr: f.Addr, DNSAddr: f.DNSAddr, MetricsAddr: f.MetricsAddr, Profiles: f.Profiles, Origins: f.Origins, NameServers: f.NameServers,
		CertFile: f.TLSCert, KeyFile: f.TLSKey, PutsPerSecond: f.PutsPerSecond, QueriesPerSecond: f.QueriesPerSecond,
		Conns: f.Conns, ConnsPerPrefix: f.ConnsPerPrefix,
	}
	if cfg.Addrs, err = ParseAddrs(f.Addresses); err != nil {
		return cfg, fmt.Errorf("addresses: %w", err)
	}
	if cfg.TrustedProxies, err = webserver.ParsePrefixes(f.TrustedProxies); err != nil {
		return cfg, fmt.Errorf("trusted_proxies: %w", err)
	}
	if f.Keep != "" {
		if cfg.Keep, err = time.ParseDuration(f.Keep); err != nil || cfg.Keep < time.Hour {
			return cfg, fmt.Errorf("keep: %q is no duration of an hour or more (such as 168h)", f.Keep)
		}
	}
	if f.DHT {
		cfg.Fallback = DHT()
	}
	if len(f.ACME) > 0 {
		cfg.ACME = &webserver.ACME{Hosts: f.ACME, Contact: f.ACMEContact}
	}
	return cfg, nil
}

// ParseAddrs reads IP addresses.
func ParseAddrs(texts []string) (list []netip.Addr, err error) {
	for _, text := range texts {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("%q is no IP address", text)
		}
		list = append(list, addr)
	}
	return list, nil
}

// OpenStore opens the store that a user names: a directory, the URL of a PostgreSQL, or
// nothing for stateDir/discovery. It says where the store is.
func OpenStore(ctx context.Context, name, stateDir string) (store Store, where string, err error) {
	if strings.HasPrefix(name, "postgres://") || strings.HasPrefix(name, "postgresql://") {
		store, err = OpenPostgres(ctx, name)
		return store, "a PostgreSQL database", err
	}
	if name == "" {
		name = filepath.Join(stateDir, "discovery")
	}
	store, err = OpenBolt(name)
	return store, name, err
}
