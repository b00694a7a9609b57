package relayserver

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/webserver"
)

// file is the form of relay.toml. Its keys are those of iroh's relay, as far as they
// mean something here, and some more.
type file struct {
	EnableRelay  *bool    `toml:"enable_relay"`
	HTTPBindAddr string   `toml:"http_bind_addr"`
	Hosts        []string `toml:"hosts"`

	TrustedProxies []string `toml:"trusted_proxies"`

	EnableSTUN   *bool  `toml:"enable_stun"`
	STUNBindAddr string `toml:"stun_bind_addr"`

	EnableMetrics   *bool  `toml:"enable_metrics"`
	MetricsBindAddr string `toml:"metrics_bind_addr"`
	EnableProfiles  bool   `toml:"enable_profiles"`

	RequireChallenge bool   `toml:"require_challenge"`
	LoginsFile       string `toml:"logins_file"`

	TLS    *fileTLS   `toml:"tls"`
	Limits fileLimits `toml:"limits"`
	Access any        `toml:"access"`
}

type fileTLS struct {
	Hostname      any    `toml:"hostname"`
	HTTPSBindAddr string `toml:"https_bind_addr"`
	CertMode      string `toml:"cert_mode"`
	CertDir       string `toml:"cert_dir"`
	CertPath      string `toml:"manual_cert_path"`
	KeyPath       string `toml:"manual_key_path"`
	ProdTLS       *bool  `toml:"prod_tls"`
	Contact       string `toml:"contact"`
	ACMEURL       string `toml:"acme_url"`
}

type fileLimits struct {
	AcceptConnLimit int      `toml:"accept_conn_limit"`
	AcceptConnBurst int      `toml:"accept_conn_burst"`
	Conns           int      `toml:"conns"`
	ConnsPerPrefix  int      `toml:"conns_per_prefix"`
	LoginsPerSecond int      `toml:"logins_per_second"`
	STUNPerSecond   int      `toml:"stun_per_second"`
	Client          fileRate `toml:"client"`
	Total           fileRate `toml:"total"`
}

type fileRate struct {
	Rx struct {
		BytesPerSecond int `toml:"bytes_per_second"`
		MaxBurstBytes  int `toml:"max_burst_bytes"`
	} `toml:"rx"`
}

// stagingURL is the directory of Let's Encrypt for trials.
const stagingURL = "https://acme-staging-v02.api.letsencrypt.org/directory"

// Load reads a configuration file (TOML). Errors name the file and, where one key is
// to blame, its line. A file with a secret is refused when others can read it (S5).
func Load(path string) (Config, error) {
	var f file
	if err := webserver.ReadTOML(path, &f); err != nil {
		return Config{}, err
	}
	cfg, err := f.config()
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	if len(cfg.Access.Tokens) > 0 || cfg.Access.BearerToken != "" {
		if err := webserver.CheckSecret(path, "the tokens"); err != nil {
			return Config{}, err
		}
	}
	return cfg, nil
}

func (f *file) config() (Config, error) {
	if f.EnableRelay != nil && !*f.EnableRelay {
		return Config{}, errors.New("enable_relay = false leaves nothing to do")
	}
	cfg := Config{
		Hosts: f.Hosts, STUNAddr: f.STUNBindAddr, MetricsAddr: f.MetricsBindAddr, Profiles: f.EnableProfiles,
		RequireChallenge: f.RequireChallenge, LoginsFile: f.LoginsFile, Limits: f.Limits.limits(),
	}
	if f.EnableSTUN != nil && !*f.EnableSTUN {
		cfg.STUNAddr = "none"
	}
	switch {
	case f.EnableMetrics != nil && !*f.EnableMetrics:
		cfg.MetricsAddr = ""
	case cfg.MetricsAddr == "":
		cfg.MetricsAddr = "127.0.0.1:9090"
	}
	var err error
	if cfg.TrustedProxies, err = webserver.ParsePrefixes(f.TrustedProxies); err != nil {
		return Config{}, fmt.Errorf("trusted_proxies: %w", err)
	}
	if cfg.Access, err = accessOf(f.Access); err != nil {
		return Config{}, err
	}
	if f.TLS == nil {
		cfg.Addr = f.HTTPBindAddr
		return cfg, nil
	}
	cfg.Addr, cfg.CaptiveAddr = f.TLS.HTTPSBindAddr, f.HTTPBindAddr
	if cfg.CaptiveAddr == "" {
		cfg.CaptiveAddr = ":80"
	}
	return cfg, f.TLS.apply(&cfg)
}

func (t *fileTLS) apply(cfg *Config) error {
	hosts, err := texts(t.Hostname)
	if err != nil {
		return fmt.Errorf("tls.hostname %w", err)
	}
	cfg.Hosts = append(cfg.Hosts, hosts...)
	dir := t.CertDir
	if dir == "" {
		dir = "."
	}
	switch t.CertMode {
	case "Manual", "Reloading":
		cfg.CertFile, cfg.KeyFile = t.CertPath, t.KeyPath
		if cfg.CertFile == "" {
			cfg.CertFile = filepath.Join(dir, "default.crt")
		}
		if cfg.KeyFile == "" {
			cfg.KeyFile = filepath.Join(dir, "default.key")
		}
	case "LetsEncrypt":
		if len(hosts) == 0 {
			return errors.New(`tls.hostname is needed for cert_mode = "LetsEncrypt"`)
		}
		cfg.ACME = &ACME{Hosts: hosts, Contact: t.Contact, CacheDir: dir, DirectoryURL: t.ACMEURL}
		if t.ProdTLS != nil && !*t.ProdTLS && t.ACMEURL == "" {
			cfg.ACME.DirectoryURL = stagingURL
		}
	case "":
		return errors.New("tls.cert_mode is missing (use Manual, Reloading or LetsEncrypt)")
	default:
		return fmt.Errorf("tls.cert_mode %q is unknown (use Manual, Reloading or LetsEncrypt)", t.CertMode)
	}
	return nil
}

func (l *fileLimits) limits() Limits {
	return Limits{
		Conns: l.Conns, ConnsPerPrefix: l.ConnsPerPrefix, LoginsPerSecond: l.LoginsPerSecond, STUNPerSecond: l.STUNPerSecond,
		AcceptsPerSecond: l.AcceptConnLimit, AcceptBurst: l.AcceptConnBurst,
		ReceivePerClient: l.Client.Rx.BytesPerSecond, ReceiveBurst: l.Client.Rx.MaxBurstBytes,
		ReceiveTotal: l.Total.Rx.BytesPerSecond, ReceiveTotalBurst: l.Total.Rx.MaxBurstBytes,
	}
}

// accessOf reads the key access: a word, or a table with one of four keys.
func accessOf(value any) (Access, error) {
	const choices = `use "everyone", or a table with one of allowlist, denylist, shared_token and http`
	switch v := value.(type) {
	case nil:
		return Access{}, nil
	case string:
		if v == "everyone" {
			return Access{Mode: AccessEveryone}, nil
		}
		return Access{}, fmt.Errorf("access %q is unknown (%s)", v, choices)
	case map[string]any:
		if len(v) != 1 {
			return Access{}, fmt.Errorf("access has %d keys (%s)", len(v), choices)
		}
		for key, value := range v {
			a, err := accessBy(key, value)
			if err != nil {
				return Access{}, fmt.Errorf("access.%s %w", key, err)
			}
			return a, nil
		}
	}
	return Access{}, fmt.Errorf("access %v is unknown (%s)", value, choices)
}

func accessBy(key string, value any) (Access, error) {
	switch key {
	case "allowlist", "denylist":
		a := Access{Mode: AccessAllow}
		if key == "denylist" {
			a.Mode = AccessDeny
		}
		list, err := texts(value)
		if err != nil {
			return Access{}, err
		}
		for _, text := range list {
			id, err := identity.ParseNodeID(text)
			if err != nil {
				return Access{}, err
			}
			a.Nodes = append(a.Nodes, id)
		}
		return a, nil
	case "shared_token":
		tokens, err := texts(value)
		return Access{Mode: AccessToken, Tokens: tokens}, err
	case "http":
		table, _ := value.(map[string]any)
		url, ok := table["url"].(string)
		bearer, _ := table["bearer_token"].(string)
		if !ok {
			return Access{}, errors.New("needs a url")
		}
		return Access{Mode: AccessHTTP, URL: url, BearerToken: bearer}, nil
	default:
		return Access{}, errors.New("is unknown (use allowlist, denylist, shared_token or http)")
	}
}

// texts takes one text or a list of them.
func texts(value any) ([]string, error) {
	switch v := value.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{v}, nil
	case []any:
		list := make([]string, 0, len(v))
		for _, element := range v {
			text, ok := element.(string)
			if !ok {
				return nil, fmt.Errorf("must be a list of texts, not %v", element)
			}
			list = append(list, text)
		}
		return list, nil
	default:
		return nil, fmt.Errorf("must be a text or a list of texts, not %v", value)
	}
}
