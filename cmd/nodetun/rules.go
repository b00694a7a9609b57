package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nodetun/nodetun/internal/localapi"
)

func (a *app) allowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "allow <peer> [rule...]", Short: "let a peer reach more of this host", Args: cobra.MinimumNArgs(1),
		Long: "Let a peer reach more of this host. Rules are all, icmp, tcp/PORT, udp/PORT; none\nnamed means tcp/22 icmp. They are in force when the command returns.",
	}
	cmd.RunE = read(a, func(ctx context.Context, b localapi.Backend, args []string) (localapi.PeerEntry, error) {
		return b.Allow(ctx, localapi.RulesRequest{Peer: args[0], Rules: args[1:]})
	}, showRules)
	return a.jsonFlag(cmd)
}

func (a *app) denyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "deny <peer> [rule...]", Short: "take rules from a peer, all if none is named", Args: cobra.MinimumNArgs(1),
		Long: "Take rules from a peer; what runs under them ends before the command returns. With\nnone named, or none left, the peer is denied altogether and told so.",
	}
	cmd.RunE = read(a, func(ctx context.Context, b localapi.Backend, args []string) (localapi.PeerEntry, error) {
		return b.Deny(ctx, localapi.RulesRequest{Peer: args[0], Rules: args[1:]})
	}, showRules)
	return a.jsonFlag(cmd)
}

// showRules says what a peer may reach now.
func showRules(p *printer, e localapi.PeerEntry) {
	p.linef("%s may reach here: %s", e.Label(), rulesText(e.Rules))
}

func (a *app) checkCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "check <peer> <rule>", Short: "say whether a peer may reach something here, such as tcp/22", Args: cobra.ExactArgs(2)}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		backend, err := a.backend()
		if err != nil {
			return err
		}
		check, err := backend.Check(cmd.Context(), args[0], args[1])
		if err != nil {
			return err
		}
		err = a.print(cmd, check, func(p *printer) {
			if check.Allowed {
				p.linef("yes, by the rule %s", check.Rule)
			} else {
				p.linef("no (to change that: sudo nodetun allow %s %s)", check.Peer, check.Asked)
			}
		})
		if err == nil && !check.Allowed {
			return &codedError{exitDenied, fmt.Errorf("%w: denied", errSilent)}
		}
		return err
	}
	return a.jsonFlag(cmd)
}
