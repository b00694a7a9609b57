package main

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay/relayserver"
)

func (a *app) relayCommand() *cobra.Command {
	var cfg relayserver.Config
	var everyone bool
	var allow, deny []string
	cmd := &cobra.Command{
		Use: "relay", Short: "run a relay for nodes that cannot reach each other directly",
		Example: "  nodetun relay --dev\n  nodetun relay --tls-cert relay.crt --tls-key relay.key --everyone",
	}
	flags := cmd.Flags()
	flags.BoolVar(&cfg.Dev, "dev", false, "plain HTTP, open to everyone: for tests and trusted networks")
	flags.StringVar(&cfg.Addr, "addr", "", "TCP address (default :443 with a certificate, else :3340)")
	flags.StringVar(&cfg.STUNAddr, "stun-addr", "", "UDP address of the STUN server, or none (default :3478)")
	flags.StringVar(&cfg.CertFile, "tls-cert", "", "PEM file of the certificate")
	flags.StringVar(&cfg.KeyFile, "tls-key", "", "PEM file of its key")
	flags.BoolVar(&everyone, "everyone", false, "let everyone use the relay")
	flags.StringArrayVar(&allow, "allow", nil, "let this NodeID use the relay and no others (repeatable)")
	flags.StringArrayVar(&deny, "deny", nil, "let everyone but this NodeID use the relay (repeatable)")
	flags.StringArrayVar(&cfg.Hosts, "host", nil, "name or name:port under which nodes dial this relay, besides those of the certificate (repeatable)")
	flags.BoolVar(&cfg.RequireChallenge, "require-challenge", false, "refuse logins that could be a replay, as those of iroh-net 0.28 could")
	cmd.MarkFlagsMutuallyExclusive("everyone", "allow", "deny")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var err error
		if cfg.Access, err = relayAccess(everyone, allow, deny); err != nil {
			return usage(err)
		}
		if !cfg.Dev {
			cfg.LoginsFile = filepath.Join(a.stateDir, "relay-logins")
		}
		cfg.Logger = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
		server, err := relayserver.New(cfg)
		if errors.Is(err, relayserver.ErrNoAccess) || errors.Is(err, relayserver.ErrNoCertificate) {
			return usage(err)
		}
		if err != nil {
			return err
		}
		if err := server.Listen(); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "relay on %s\n", server.Addr())
		if stun := server.STUNAddr(); stun.IsValid() {
			fmt.Fprintf(cmd.OutOrStdout(), "stun on %s\n", stun)
		}
		return server.Run(cmd.Context())
	}
	return cmd
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
