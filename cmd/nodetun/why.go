package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodetun/nodetun/internal/localapi"
)

func (a *app) whyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "why <peer>", Short: "explain the path to a peer, and what would make it direct", Args: cobra.ExactArgs(1)}
	cmd.RunE = read(a, func(ctx context.Context, b localapi.Backend, args []string) (localapi.Why, error) {
		return b.Why(ctx, args[0])
	}, showWhy)
	return a.jsonFlag(cmd)
}

// showWhy prints the explanation for people.
func showWhy(p *printer, w localapi.Why) {
	p.linef("%s: %s", w.Peer, strings.TrimSpace(w.Path+" "+w.Endpoint))
	p.linef("  %s", w.Cause)
	if w.Remedy != "" {
		p.linef("  to do: %s", w.Remedy)
	}
	p.linef("")
	sides := [][]string{{"", "NAT", "UDP", "IPv4", "IPv6", "PORT MAPPING", "RELAY", "SEEN AS"}, sideRow("here", &w.Self)}
	p.table(append(sides, sideRow(w.Peer, w.Their)))
	showCandidates(p, "addresses of "+w.Peer+", tried from here", w.Candidates)
	switch {
	case w.TheirCandidates != nil:
		showCandidates(p, "addresses of this node, tried from "+w.Peer, w.TheirCandidates)
	case w.Their != nil:
		p.linef("")
		p.linef("%s did not say now which of our addresses it tried", w.Peer)
	}
	if w.Repair != nil {
		p.linef("")
		for _, line := range repairText(w.Peer, *w.Loss, w.Repair) {
			p.linef("%s", line)
		}
	}
	if w.Switches > 0 && w.LastSwitch != nil {
		p.linef("")
		p.linef("the path changed %d times (%s), last %s: %s", w.Switches, reasonsText(w.SwitchReasons), ago(time.Since(*w.LastSwitch)), w.LastReason)
	}
}

func sideRow(name string, s *localapi.Side) []string {
	if s == nil {
		return []string{name, "?", "?", "?", "?", "?", "?", "?"}
	}
	dash := func(text string) string { return orDash(&text) }
	return []string{name, s.NAT, yesNo(s.UDP), yesNo(s.V4), yesNo(s.V6), dash(s.Portmap), dash(s.Relay), dash(strings.Join(s.Public, " "))}
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func showCandidates(p *printer, title string, list []localapi.Candidate) {
	p.linef("")
	if len(list) == 0 {
		p.linef("%s: none known", title)
		return
	}
	p.linef("%s:", title)
	rows := make([][]string, 0, len(list))
	for _, c := range list {
		rows = append(rows, []string{"  " + c.Addr, c.LastResult, "(" + c.Kind + ")"})
	}
	p.table(rows)
}

// repairText says what is lost, and what is done about it.
func repairText(peer string, loss float64, r *localapi.Repair) []string {
	first := fmt.Sprintf("of what comes from %s, %.1f %% is lost on the way: %d packets came, %d more were repaired by %d parity packets", peer, 100*loss, r.Received, r.Repaired, r.ParityReceived)
	if r.TooFast {
		first = fmt.Sprintf("packets from %s are lost because of the rate at which they come; that is not repaired (%d packets were, earlier)", peer, r.Repaired)
	}
	if r.Dropped > 0 {
		first += fmt.Sprintf("; %d were dropped here, as a queue on the way was full", r.Dropped)
	}
	return []string{first, fmt.Sprintf("to %s went %d packets and %d parity packets, now %d with 64", peer, r.Sent, r.ParitySent, r.Asked)}
}

// reasonsText lists reasons, the most frequent first.
func reasonsText(m map[string]uint64) string {
	keys := slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		if m[a] != m[b] {
			return int(m[b]) - int(m[a])
		}
		return strings.Compare(a, b)
	})
	for i, k := range keys {
		keys[i] = fmt.Sprintf("%s %d", k, m[k])
	}
	return strings.Join(keys, ", ")
}
