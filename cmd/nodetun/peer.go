package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nodetun/nodetun/internal/localapi"
)

func (a *app) peerCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "peer", Short: "add and list peers", RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(a.peerAddCommand(), a.peerListCommand())
	return cmd
}

func (a *app) peerAddCommand() *cobra.Command {
	var r localapi.AddRequest
	var allow []string
	cmd := &cobra.Command{
		Use: "add <id|ticket>", Short: "add a peer, or to what is known of one; the other side must do the same",
		Example: "  nodetun peer add js22x5… --name nas --addr 192.0.2.7:41820\n  nodetun peer add nodeab… --allow \"tcp/22 tcp/443\"",
		Args:    cobra.ExactArgs(1),
	}
	flags := cmd.Flags()
	flags.StringVar(&r.Name, "name", "", "petname: `NAME`.node.internal")
	flags.StringArrayVar(&r.Addrs, "addr", nil, "where it is, `ip:port` (repeatable)")
	flags.StringVar(&r.Relay, "relay", "", "`URL` of the relay that it uses")
	flags.StringArrayVar(&allow, "allow", nil, "`rule` of what it may reach here: all, icmp, tcp/PORT, udp/PORT (default \"tcp/22 icmp\")")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		r.Peer, r.Allow = args[0], allow
		backend, err := a.backend()
		if err != nil {
			return err
		}
		result, err := backend.AddPeer(cmd.Context(), r)
		if err != nil {
			return err
		}
		return a.print(cmd, result, func(p *printer) { showAdded(p, result) })
	}
	return a.jsonFlag(cmd)
}

// showAdded says what was done and what is left to do on the other machine.
func showAdded(p *printer, r localapi.AddResult) {
	verb := "changed"
	if r.Added {
		verb = "added"
	}
	p.linef("%s %s (%s)", verb, r.Peer.Label(), r.Peer.FQDN)
	p.linef("it may reach here: %s", rulesText(r.Peer.Rules))
	if r.Added {
		p.linef("now on that machine: sudo nodetun peer add %s", r.Self)
	}
}

// rulesText words rules.
func rulesText(rules []string) string {
	if len(rules) == 0 {
		return "nothing, it is denied"
	}
	return strings.Join(rules, " ")
}

func (a *app) peerListCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "ls", Aliases: []string{"list"}, Short: "list the peers"}
	cmd.RunE = read(a, func(ctx context.Context, b localapi.Backend, _ []string) ([]localapi.PeerEntry, error) {
		return b.Peers(ctx)
	},
		func(p *printer, list []localapi.PeerEntry) {
			if len(list) == 0 {
				p.linef("no peers (try: sudo nodetun invite)")
				return
			}
			rows := [][]string{{"NAME", "ID", "MAY REACH HERE", "ADDRESSES"}}
			for _, e := range list {
				where := strings.Join(e.Addrs, " ")
				if e.Relay != nil {
					where = strings.TrimSpace(where + " " + *e.Relay)
				}
				may := rulesText(e.Rules)
				for _, g := range e.Grants {
					may += fmt.Sprintf(" (%s until %s)", strings.Join(g.Rules, " "), localTime(g.Until))
				}
				rows = append(rows, []string{orDash(&e.Name), e.ID.String(), may, orDash(&where)})
			}
			p.table(rows)
		})
	return a.jsonFlag(cmd)
}

func (a *app) forgetCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "forget <peer>", Short: "remove a peer; what runs with it ends at once", Args: cobra.ExactArgs(1)}
	cmd.RunE = read(a, func(ctx context.Context, b localapi.Backend, args []string) (localapi.PeerEntry, error) {
		return b.Forget(ctx, args[0])
	},
		func(p *printer, e localapi.PeerEntry) { p.linef("forgot %s", e.Label()) })
	return a.jsonFlag(cmd)
}
