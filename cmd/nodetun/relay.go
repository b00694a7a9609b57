package main

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/nodetun/nodetun/relay/relayserver"
)

func (a *app) relayCommand() *cobra.Command {
	var cfg relayserver.Config
	var everyone bool
	cmd := &cobra.Command{
		Use: "relay", Short: "run a relay for nodes that cannot reach each other directly",
		Example: "  nodetun relay --dev\n  nodetun relay --cert-file relay.crt --key-file relay.key --everyone",
	}
	flags := cmd.Flags()
	flags.BoolVar(&cfg.Dev, "dev", false, "plain HTTP, open to everyone: for tests and trusted networks")
	flags.StringVar(&cfg.Addr, "addr", "", "TCP address (default :443 with a certificate, else :3340)")
	flags.StringVar(&cfg.STUNAddr, "stun-addr", "", "UDP address of the STUN server, or none (default :3478)")
	flags.StringVar(&cfg.CertFile, "cert-file", "", "PEM file of the certificate")
	flags.StringVar(&cfg.KeyFile, "key-file", "", "PEM file of its key")
	flags.BoolVar(&everyone, "everyone", false, "let everyone use the relay")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if everyone {
			cfg.Access = relayserver.Access{Mode: relayserver.AccessEveryone}
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
