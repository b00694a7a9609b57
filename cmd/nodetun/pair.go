package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nodetun/nodetun/internal/localapi"
)

func (a *app) pairCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "pair [code]", Short: "make this machine and another one peers by a code that can be read aloud", Args: cobra.ArbitraryArgs,
		Long: "Make this machine and another one, on the same network, relay or discovery server,\n" +
			"peers of each other. Without a code one is shown, to be typed on the other machine.\n" +
			"Both then show six digits: say yes only if they are the same on both.",
		Example: "  nodetun pair\n  nodetun pair 123 456 789",
	}
	var r localapi.PairRequest
	var allow []string
	registerGuest(cmd.Flags(), &r.Name, &allow)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		r.Allow, r.Code = allow, strings.Join(args, " ")
		backend, err := a.backend()
		if err != nil {
			return err
		}
		progress := func(step string) { fmt.Fprintln(cmd.ErrOrStderr(), shown(step)) } // with --json, too: it holds the code
		result, err := backend.Pair(cmd.Context(), r, progress, func(q localapi.PairQuestion) bool {
			fmt.Fprintf(cmd.ErrOrStderr(), "found a machine that calls itself %q\nboth have to show: %s\n", q.Name, shown(q.Check))
			return askYes(cmd.ErrOrStderr(), cmd.InOrStdin(), "is it the same there? [y/N] ")
		})
		if err != nil {
			return err
		}
		return a.print(cmd, result, func(p *printer) { showJoined(p, result) })
	}
	return a.jsonFlag(cmd)
}

// askYes asks somebody at a terminal; anything but yes is no.
func askYes(out io.Writer, in io.Reader, question string) bool {
	fmt.Fprint(out, question)
	line, _ := bufio.NewReader(in).ReadString('\n')
	answer := strings.ToLower(strings.TrimSpace(line))
	return answer == "y" || answer == "yes"
}
