package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/mdp/qrterminal/v3"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nodetun/nodetun/internal/localapi"
)

// registerGuest adds the flags of commands that make another machine a peer.
func registerGuest(flags *pflag.FlagSet, name *string, allow *[]string) {
	flags.StringVar(name, "name", "", "`name` of that machine here (default what it calls itself)")
	flags.StringArrayVar(allow, "allow", nil, "`rule` of what it may reach here (default \"tcp/22 icmp\")")
}

func (a *app) inviteCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "invite", Short: "make a line that lets one other machine in", Args: cobra.NoArgs,
		Long: "Make a line that lets one other machine in: run there, it makes both machines peers\n" +
			"of each other. It works once, and for an hour. It is a secret: whoever runs it first\n" +
			"is let in.",
		Example: "  nodetun invite\n  nodetun invite --name laptop --allow \"ssh https\" --for 24h",
	}
	var r localapi.InviteRequest
	var allow []string
	var lasts string
	registerGuest(cmd.Flags(), &r.Name, &allow)
	cmd.Flags().StringVar(&lasts, "for", "1h", "for how much `time` the line is good, such as 10m, 24h or 7d")
	qr := cmd.Flags().Bool("qr", false, "draw it as a code to be scanned too")
	cmd.RunE = read(a, func(ctx context.Context, b localapi.Backend, _ []string) (localapi.Invite, error) {
		now := time.Now()
		until, err := parseUntil(lasts, now)
		if err != nil {
			return localapi.Invite{}, usage(fmt.Errorf("--for: %w", err))
		}
		r.Allow, r.ForS = allow, int64(until.Sub(now)/time.Second)
		return b.Invite(ctx, r)
	}, func(p *printer, i localapi.Invite) {
		showInvite(p, i)
		if *qr {
			drawCode(p.w, i.Invite)
		}
	})
	return a.jsonFlag(cmd)
}

// drawCode draws a QR code, two rows of it in each line.
func drawCode(w io.Writer, text string) {
	qrterminal.GenerateWithConfig(text, qrterminal.Config{
		Level: qrterminal.L, Writer: w, HalfBlocks: true, QuietZone: 2,
		BlackChar: qrterminal.BLACK_BLACK, WhiteChar: qrterminal.WHITE_WHITE, BlackWhiteChar: qrterminal.BLACK_WHITE, WhiteBlackChar: qrterminal.WHITE_BLACK,
	})
}

// showInvite prints the line for the other machine, alone on its line.
func showInvite(p *printer, i localapi.Invite) {
	p.linef("on the other machine, where nodetun is up:")
	p.linef("")
	p.linef("sudo nodetun join %s", i.Invite)
	p.linef("")
	p.linef("it works once, until %s; that machine may then reach here: %s", localTime(i.Until), rulesText(i.Rules))
}

func (a *app) joinCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "join <invite>", Short: "use the line that `nodetun invite` printed on another machine; - reads it from the standard input", Args: cobra.MinimumNArgs(1),
		Example: "  nodetun join nt1…\n  ssh alice sudo nodetun invite | sudo nodetun join -",
	}
	var r localapi.JoinRequest
	var allow []string
	registerGuest(cmd.Flags(), &r.Name, &allow)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		r.Allow, r.Invite = allow, strings.Join(args, "") // chats break long lines
		if args[0] == "-" {
			var err error
			if r.Invite, err = inviteFrom(cmd.InOrStdin()); err != nil {
				return err
			}
		}
		backend, err := a.backend()
		if err != nil {
			return err
		}
		result, err := backend.Join(cmd.Context(), r, a.progress(cmd))
		if err != nil {
			return err
		}
		return a.print(cmd, result, func(p *printer) { showJoined(p, result) })
	}
	return a.jsonFlag(cmd)
}

// inviteFrom finds the invite in what `nodetun invite` prints, or in its text alone.
func inviteFrom(in io.Reader) (string, error) {
	text, err := io.ReadAll(io.LimitReader(in, 64<<10))
	if err != nil {
		return "", err
	}
	words := strings.Fields(string(text))
	for _, word := range words {
		if strings.HasPrefix(strings.ToLower(word), "nt1") {
			return word, nil
		}
	}
	if len(words) == 0 {
		return "", errors.New("the standard input holds no invite")
	}
	return words[len(words)-1], nil
}

// showJoined says who it is and what that side may do (S15).
func showJoined(p *printer, r localapi.JoinResult) {
	p.linef("joined %s (%s)", r.Peer.Label(), r.Peer.ID)
	p.linef("it may reach here: %s", rulesText(r.Peer.Rules))
	p.linef("now: ssh %s", r.Peer.FQDN)
}
