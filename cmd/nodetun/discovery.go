package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nodetun/nodetun/discovery/discoveryserver"
	"github.com/nodetun/nodetun/internal/webserver"
)

// discoveryFlags are those of `nodetun discovery`.
type discoveryFlags struct {
	dev   bool
	store string
	addrs []string
	acme  webserver.ACME

	proxies []string
	cfg     discoveryserver.Config
}

func (a *app) discoveryCommand() *cobra.Command {
	var f discoveryFlags
	cmd := &cobra.Command{
		Use: "discovery", Short: "run a server that tells where nodes are",
		Example: "  nodetun discovery --dev\n" +
			"  nodetun discovery --acme discovery.example.com --origin discovery.example.com --name-server ns.example.com --address 192.0.2.1\n" +
			"  nodetun up --discovery http://localhost:8080",
		Args: cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.dev, "dev", false, "plain HTTP on all addresses, no limits, and without --store in memory: for tests and trusted networks")
	flags.StringVar(&f.cfg.Addr, "addr", "", "TCP address for HTTP (default :443 with a certificate, :8080 with --dev, else 127.0.0.1:8080)")
	flags.StringVar(&f.cfg.CertFile, "tls-cert", "", "PEM file of the certificate; read again when it changes")
	flags.StringVar(&f.cfg.KeyFile, "tls-key", "", "PEM file of its key")
	flags.StringArrayVar(&f.acme.Hosts, "acme", nil, "get a certificate for this name from Let's Encrypt, whose terms you accept (repeatable)")
	flags.StringArrayVar(&f.proxies, "trusted-proxy", nil, "address or prefix of a proxy before this server, which says who its clients are (repeatable)")
	flags.StringVar(&f.cfg.DNSAddr, "dns-addr", ":5300", "UDP and TCP address for DNS, or none")
	flags.StringVar(&f.cfg.MetricsAddr, "metrics-addr", "", "TCP address for Prometheus metrics and profiles (default none)")
	flags.StringVar(&f.store, "store", "", "directory of the packets (default STATE-DIR/discovery), or postgres://… for a database")
	flags.StringArrayVar(&f.cfg.Origins, "origin", nil, "zone below which nodes have their names (repeatable; default the root)")
	flags.StringArrayVar(&f.cfg.NameServers, "name-server", nil, "name of a server of these zones (repeatable)")
	flags.StringArrayVar(&f.addrs, "address", nil, "IP address that the zones give themselves (repeatable)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		outliveReaders()
		cfg, err := f.config(a.stateDir)
		if err != nil {
			return usage(err)
		}
		if cfg.Logger, err = a.serverLogger(cmd.ErrOrStderr()); err != nil {
			return usage(err)
		}
		where := ""
		if cfg.Store, where, err = f.openStore(cmd.Context(), a.stateDir); err != nil {
			return err
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

// openStore opens the store that the flags name, and says where it is.
func (f *discoveryFlags) openStore(ctx context.Context, stateDir string) (store discoveryserver.Store, where string, err error) {
	switch {
	case strings.HasPrefix(f.store, "postgres://"), strings.HasPrefix(f.store, "postgresql://"):
		store, err = discoveryserver.OpenPostgres(ctx, f.store)
		return store, "a PostgreSQL database", err
	case f.store == "" && f.dev:
		return discoveryserver.NewMemory(), "memory: it is lost at the end", nil
	}
	where = f.store
	if where == "" {
		where = filepath.Join(stateDir, "discovery")
	}
	store, err = discoveryserver.OpenBolt(where)
	return store, where, err
}

// config is what the flags say.
func (f *discoveryFlags) config(stateDir string) (discoveryserver.Config, error) {
	cfg := f.cfg
	if cfg.DNSAddr == "none" {
		cfg.DNSAddr = ""
	}
	if f.dev {
		cfg.PutsPerSecond, cfg.QueriesPerSecond = -1, -1
	}
	if len(f.acme.Hosts) > 0 {
		f.acme.CacheDir = filepath.Join(stateDir, "discovery-certificates")
		cfg.ACME = &f.acme
	}
	secure := cfg.ACME != nil || cfg.CertFile != ""
	trusted, err := webserver.ParsePrefixes(f.proxies)
	if err != nil {
		return cfg, fmt.Errorf("--trusted-proxy: %w", err)
	}
	cfg.TrustedProxies = trusted
	switch {
	case cfg.Addr == "" && secure:
		cfg.Addr = ":443"
	case cfg.Addr == "" && f.dev:
		cfg.Addr = ":8080"
	case cfg.Addr == "":
		cfg.Addr = "127.0.0.1:8080"
	case !f.dev && !secure && !webserver.OnLoopback(cfg.Addr):
		return cfg, fmt.Errorf("plain HTTP on %s: use --dev in a trusted network; else an address of 127.0.0.0/8 or [::1], for a web server before it that has a certificate", cfg.Addr)
	}
	for _, text := range f.addrs {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return cfg, fmt.Errorf("--address: %q is no IP address", text)
		}
		cfg.Addrs = append(cfg.Addrs, addr)
	}
	return cfg, nil
}
