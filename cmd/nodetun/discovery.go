package main

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/nodetun/nodetun/discovery/discoveryserver"
	"github.com/nodetun/nodetun/internal/webserver"
)

// discoveryFlags are those of `nodetun discovery`. With a file they only replace what it says.
type discoveryFlags struct {
	file    string
	dev     bool
	store   string
	dht     bool
	addrs   []string
	acme    []string
	proxies []string
	cfg     discoveryserver.Config
}

func (a *app) discoveryCommand() *cobra.Command {
	var f discoveryFlags
	cmd := &cobra.Command{
		Use: "discovery", Short: "run a server that tells where nodes are",
		Example: "  nodetun discovery --dev\n" +
			"  nodetun discovery --acme discovery.example.com --origin discovery.example.com --name-server ns.example.com --address 192.0.2.1\n" +
			"  nodetun discovery --config /etc/nodetun/discovery.toml\n" +
			"  nodetun up --discovery http://localhost:8080",
		Args: cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.StringVar(&f.file, "config", "", "configuration `file` (docs/discovery.md)")
	flags.BoolVar(&f.dev, "dev", false, "plain HTTP on all addresses, no limits, and without --store in memory: for tests and trusted networks")
	flags.StringVar(&f.cfg.Addr, "addr", "", "TCP `address` for HTTP (default :443 with a certificate, :8080 with --dev, else 127.0.0.1:8080)")
	flags.StringVar(&f.cfg.CertFile, "tls-cert", "", "PEM `file` of the certificate; read again when it changes")
	flags.StringVar(&f.cfg.KeyFile, "tls-key", "", "PEM `file` of its key")
	flags.StringArrayVar(&f.acme, "acme", nil, "get a certificate for this `name` from Let's Encrypt, whose terms you accept (repeatable)")
	flags.StringArrayVar(&f.proxies, "trusted-proxy", nil, "`address` or prefix of a proxy before this server, which says who its clients are (repeatable)")
	flags.StringVar(&f.cfg.DNSAddr, "dns-addr", "", "UDP and TCP `address` for DNS, or none (default :5300)")
	flags.StringVar(&f.cfg.MetricsAddr, "metrics-addr", "", "TCP `address` for Prometheus metrics and profiles (default none)")
	flags.StringVar(&f.store, "store", "", "`directory` of the packets (default STATE-DIR/discovery), or postgres://… for a database")
	flags.BoolVar(&f.dht, "dht", false, "look for nodes that are not in the store in the Mainline DHT, for the DNS")
	flags.StringArrayVar(&f.cfg.Origins, "origin", nil, "`zone` below which nodes have their names (repeatable; default the root)")
	flags.StringArrayVar(&f.cfg.NameServers, "name-server", nil, "`name` of a server of these zones (repeatable)")
	flags.StringArrayVar(&f.addrs, "address", nil, "IP `address` that the zones give themselves (repeatable)")
	cmd.MarkFlagsMutuallyExclusive("acme", "tls-cert")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		outliveReaders()
		cfg, store, err := f.config(a.stateDir)
		if err != nil {
			return usage(err)
		}
		if cfg.Logger, err = a.serverLogger(cmd.ErrOrStderr()); err != nil {
			return usage(err)
		}
		where := "memory: it is lost at the end"
		if !f.dev || store != "" {
			if cfg.Store, where, err = discoveryserver.OpenStore(cmd.Context(), store, a.stateDir); err != nil {
				return err
			}
		}
		server := discoveryserver.New(cfg)
		if err := server.Listen(); err != nil {
			return errors.Join(err, server.Close())
		}
		out := cmd.OutOrStdout()
		fmt.Fprintf(out, "packets and DNS over HTTP on %s\n", server.URL())
		if addr := server.DNSAddr(); addr != nil {
			fmt.Fprintf(out, "dns on %s\n", addr)
		}
		if addr := server.MetricsAddr(); addr != nil {
			fmt.Fprintf(out, "metrics on http://%s/metrics\n", addr)
		}
		fmt.Fprintf(out, "store in %s\n", where)
		return server.Run(cmd.Context())
	}
	return cmd
}

// config is what the file says, if there is one, with what the flags say in its place.
func (f *discoveryFlags) config(stateDir string) (cfg discoveryserver.Config, store string, err error) {
	cfg = f.cfg
	if f.file != "" {
		if cfg, store, err = discoveryserver.Load(f.file); err != nil {
			return cfg, "", err
		}
		f.overlay(&cfg)
	}
	if f.store != "" {
		store = f.store
	}
	addrs, err := discoveryserver.ParseAddrs(f.addrs)
	if err != nil {
		return cfg, "", fmt.Errorf("--address: %w", err)
	}
	cfg.Addrs = append(cfg.Addrs, addrs...)
	trusted, err := webserver.ParsePrefixes(f.proxies)
	if err != nil {
		return cfg, "", fmt.Errorf("--trusted-proxy: %w", err)
	}
	cfg.TrustedProxies = append(cfg.TrustedProxies, trusted...)
	if f.dht {
		cfg.Fallback = discoveryserver.DHT()
	}
	if len(f.acme) > 0 {
		cfg.ACME = &webserver.ACME{Hosts: f.acme}
	}
	if cfg.ACME != nil {
		cfg.ACME.CacheDir = filepath.Join(stateDir, "discovery-certificates")
	}
	return cfg, store, f.listen(&cfg)
}

// overlay puts the flags that were given in the place of what the file says.
func (f *discoveryFlags) overlay(cfg *discoveryserver.Config) {
	for _, flag := range []struct {
		to    *string
		value string
	}{
		{&cfg.Addr, f.cfg.Addr},
		{&cfg.DNSAddr, f.cfg.DNSAddr},
		{&cfg.MetricsAddr, f.cfg.MetricsAddr},
		{&cfg.CertFile, f.cfg.CertFile},
		{&cfg.KeyFile, f.cfg.KeyFile},
	} {
		if flag.value != "" {
			*flag.to = flag.value
		}
	}
	cfg.Origins = append(cfg.Origins, f.cfg.Origins...)
	cfg.NameServers = append(cfg.NameServers, f.cfg.NameServers...)
}

// listen fills in where nothing was said.
func (f *discoveryFlags) listen(cfg *discoveryserver.Config) error {
	switch cfg.DNSAddr {
	case "":
		cfg.DNSAddr = ":5300"
	case "none":
		cfg.DNSAddr = ""
	}
	if f.dev {
		cfg.PutsPerSecond, cfg.QueriesPerSecond, cfg.Conns, cfg.ConnsPerPrefix = -1, -1, -1, -1
	}
	secure := cfg.ACME != nil || cfg.CertFile != ""
	switch {
	case cfg.Addr == "" && secure:
		cfg.Addr = ":443"
	case cfg.Addr == "" && f.dev:
		cfg.Addr = ":8080"
	case cfg.Addr == "":
		cfg.Addr = "127.0.0.1:8080"
	case !f.dev && !secure && !webserver.OnLoopback(cfg.Addr):
		return fmt.Errorf("plain HTTP on %s: use --dev in a trusted network; else an address of 127.0.0.0/8 or [::1], for a web server before it that has a certificate", cfg.Addr)
	}
	return nil
}
