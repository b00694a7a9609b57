package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodetun/nodetun/internal/localapi"
)

func (a *app) allowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "allow <peer> [rule...]", Short: "let a peer reach more of this host", Args: cobra.MinimumNArgs(1),
		Long: "Let a peer reach more of this host. Rules are all, icmp, tcp/PORT, udp/PORT, ranges\n" +
			"such as udp/60000-61000, and services such as ssh, https or mosh; none named means\n" +
			"tcp/22 icmp. They are in force when the command returns.",
		Example: "  nodetun allow bob\n  nodetun allow bob ssh mosh\n  nodetun allow bob tcp/5432 --until 8h",
	}
	until := cmd.Flags().String("until", "", "take it back after a `time` (8h, 30d) or at one (2026-12-31, 2026-12-31T18:00)")
	cmd.RunE = read(a, func(ctx context.Context, b localapi.Backend, args []string) (localapi.PeerEntry, error) {
		r := localapi.RulesRequest{Peer: args[0], Rules: args[1:]}
		if *until != "" {
			when, err := parseUntil(*until, time.Now())
			if err != nil {
				return localapi.PeerEntry{}, usage(fmt.Errorf("--until: %w", err))
			}
			r.Until = &when
		}
		return b.Allow(ctx, r)
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

// parseUntil reads a length of time from now, or a time of this machine's clock.
func parseUntil(text string, now time.Time) (time.Time, error) {
	for _, form := range []string{time.RFC3339, "2006-01-02T15:04", "2006-01-02 15:04", time.DateOnly} {
		if at, err := time.ParseInLocation(form, text, time.Local); err == nil {
			if !at.After(now) {
				return at, fmt.Errorf("%s is over", text)
			}
			return at, nil
		}
	}
	d, err := time.ParseDuration(text)
	if days, isDays := strings.CutSuffix(text, "d"); isDays {
		var n int
		n, err = strconv.Atoi(days)
		d = time.Duration(min(max(n, 0), 36500)) * 24 * time.Hour
	}
	if err != nil || d <= 0 {
		return now, fmt.Errorf("%q is no time (use 30m, 8h, 30d, or a date such as 2026-12-31)", text)
	}
	return now.Add(d), nil
}

// showRules says what a peer may reach now.
func showRules(p *printer, e localapi.PeerEntry) {
	p.linef("%s may reach here: %s", e.Label(), rulesText(e.Rules))
	for _, g := range e.Grants {
		p.linef("until %s: %s", localTime(g.Until), strings.Join(g.Rules, " "))
	}
}

// localTime words a time by this machine's clock.
func localTime(t time.Time) string { return t.Local().Format("2006-01-02 15:04 MST") }

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
				if check.Until != nil {
					p.linef("until %s", localTime(*check.Until))
				}
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
