package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/config"
	"github.com/nodetun/nodetun/internal/webserver"
	"github.com/nodetun/nodetun/relay/relayserver"
)

// relayFlags are those of `nodetun relay`. With a file they only replace what it says.
type relayFlags struct {
	file        string
	cfg         relayserver.Config
	everyone    bool
	allow, deny []string
	proxies     []string
	acme        relayserver.ACME
}

func (a *app) relayCommand() *cobra.Command {
	var f relayFlags
	cmd := &cobra.Command{
		Use: "relay", Short: "run a relay for nodes that cannot reach each other directly",
		Example: "  nodetun relay --dev\n" +
			"  nodetun relay --acme relay.example.com --everyone\n" +
			"  nodetun relay --tls-cert relay.crt --tls-key relay.key --everyone\n" +
			"  nodetun relay --config /etc/nodetun/relay.toml",
	}
	flags := cmd.Flags()
	flags.StringVar(&f.file, "config", "", "configuration `file` (docs/relay.md)")
	flags.BoolVar(&f.cfg.Dev, "dev", false, "plain HTTP, open to everyone: for tests and trusted networks")
	flags.StringVar(&f.cfg.Addr, "addr", "", "TCP `address` (default :443 with a certificate, else :3340)")
	flags.StringVar(&f.cfg.STUNAddr, "stun-addr", "", "UDP `address` of the STUN server, or none (default :3478)")
	flags.StringVar(&f.cfg.MetricsAddr, "metrics-addr", "", "TCP `address` for Prometheus metrics and profiles (default none)")
	flags.StringVar(&f.cfg.CertFile, "tls-cert", "", "PEM `file` of the certificate; read again when it changes")
	flags.StringVar(&f.cfg.KeyFile, "tls-key", "", "PEM `file` of its key")
	flags.StringArrayVar(&f.acme.Hosts, "acme", nil, "get a certificate for this `name` from Let's Encrypt, whose terms you accept (repeatable)")
	flags.BoolVar(&f.everyone, "everyone", false, "let everyone use the relay")
	flags.StringArrayVar(&f.allow, "allow", nil, "let this `NodeID` use the relay and no others (repeatable)")
	flags.StringArrayVar(&f.deny, "deny", nil, "let everyone but this `NodeID` use the relay (repeatable)")
	flags.StringArrayVar(&f.cfg.Hosts, "host", nil, "`name` or name:port under which nodes dial this relay, besides those of the certificate (repeatable)")
	flags.StringArrayVar(&f.proxies, "trusted-proxy", nil, "`address` or prefix of a proxy before this relay, which says who its clients are (repeatable)")
	flags.BoolVar(&f.cfg.RequireChallenge, "require-challenge", false, "refuse logins that could be a replay, as those of iroh-net 0.28 could")
	cmd.MarkFlagsMutuallyExclusive("everyone", "allow", "deny")
	cmd.MarkFlagsMutuallyExclusive("acme", "tls-cert")
	cmd.MarkFlagsMutuallyExclusive("acme", "dev")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		outliveReaders()
		cfg, err := f.config(a.stateDir)
		if err != nil {
			return usage(err)
		}
		if cfg.Logger, err = a.serverLogger(cmd.ErrOrStderr()); err != nil {
			return usage(err)
		}
		server, err := relayserver.New(cfg)
		if errors.Is(err, relayserver.ErrNoAccess) || errors.Is(err, relayserver.ErrNoCertificate) {
			return usage(err)
		}
		if err != nil {
			return err
		}
		defer server.Close()
		if err := server.Listen(); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "relay on %s\n", server.Addr())
		if stun := server.STUNAddr(); stun.IsValid() {
			fmt.Fprintf(cmd.OutOrStdout(), "stun on %s\n", stun)
		}
		if addr := server.MetricsAddr(); addr != nil {
			fmt.Fprintf(cmd.OutOrStdout(), "metrics on http://%s/metrics\n", addr)
		}
		return server.Run(cmd.Context())
	}
	return cmd
}

// config is what the file says, if there is one, with what the flags say in its place.
func (f *relayFlags) config(stateDir string) (relayserver.Config, error) {
	cfg := f.cfg
	if f.file != "" {
		var err error
		if cfg, err = relayserver.Load(f.file); err != nil {
			return cfg, err
		}
		f.overlay(&cfg)
	}
	trusted, err := webserver.ParsePrefixes(f.proxies)
	if err != nil {
		return cfg, fmt.Errorf("--trusted-proxy: %w", err)
	}
	cfg.TrustedProxies = append(cfg.TrustedProxies, trusted...)
	if len(f.acme.Hosts) > 0 {
		cfg.ACME = &relayserver.ACME{Hosts: f.acme.Hosts, CacheDir: filepath.Join(stateDir, "relay-certificates")}
		if cfg.CaptiveAddr == "" {
			cfg.CaptiveAddr = ":80"
		}
	}
	if f.everyone || len(f.allow)+len(f.deny) > 0 {
		var err error
		if cfg.Access, err = relayAccess(f.everyone, f.allow, f.deny); err != nil {
			return cfg, err
		}
	}
	if !cfg.Dev && cfg.LoginsFile == "" {
		cfg.LoginsFile = filepath.Join(stateDir, "relay-logins")
	}
	return cfg, nil
}

// overlay puts the flags that were given in the place of what the file says.
func (f *relayFlags) overlay(cfg *relayserver.Config) {
	set := func(to *string, flag string) {
		if flag != "" {
			*to = flag
		}
	}
	set(&cfg.Addr, f.cfg.Addr)
	set(&cfg.STUNAddr, f.cfg.STUNAddr)
	set(&cfg.MetricsAddr, f.cfg.MetricsAddr)
	set(&cfg.CertFile, f.cfg.CertFile)
	set(&cfg.KeyFile, f.cfg.KeyFile)
	cfg.Hosts = append(cfg.Hosts, f.cfg.Hosts...)
	cfg.Dev = cfg.Dev || f.cfg.Dev
	cfg.RequireChallenge = cfg.RequireChallenge || f.cfg.RequireChallenge
}

// serverLogger logs to w as the common flags say.
func (a *app) serverLogger(w io.Writer) (*slog.Logger, error) {
	s := config.Default()
	err := applyFlags(&s, a.flags, []override{{"log-level", "log_level", a.logLevel}, {"log-format", "log_format", a.logFormat}})
	return newLogger(w, s.LogFormat, s.LogLevel), err
}

// relayAccess says who may use the relay; nothing chosen stays so (S26).
func relayAccess(everyone bool, allow, deny []string) (relayserver.Access, error) {
	access := relayserver.Access{}
	switch {
	case everyone:
		access.Mode = relayserver.AccessEveryone
	case len(allow) > 0:
		access.Mode = relayserver.AccessAllow
	case len(deny) > 0:
		access.Mode = relayserver.AccessDeny
	}
	for _, text := range append(allow, deny...) {
		id, err := identity.ParseNodeID(text)
		if err != nil {
			return relayserver.Access{}, err
		}
		access.Nodes = append(access.Nodes, id)
	}
	return access, nil
}
