package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodetun/nodetun/internal/localapi"
)

func (a *app) statusCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "status", Short: "show this node, its peers, and what is wrong"}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		status, err := a.client().Status(cmd.Context())
		if err != nil {
			return err
		}
		return a.print(cmd, status, func(p *printer) { showStatus(p, status, time.Now()) })
	}
	return a.jsonFlag(cmd)
}

// showStatus prints the status for people.
func showStatus(p *printer, s localapi.Status, now time.Time) {
	showSelf(p, s, now)
	p.linef("")
	if len(s.Peers) == 0 {
		p.linef("no peers (try: sudo nodetun invite)")
	} else {
		p.table(peerRows(s.Peers, now))
	}
	for _, peer := range s.Peers {
		if peer.LastError != nil && peer.State != "connected" {
			p.linef("  %s: %s", peerLabel(peer), *peer.LastError)
		}
	}
	for _, peer := range s.Peers {
		if text := lossText(peer); text != "" {
			p.linef("  %s: %s", peerLabel(peer), text)
		}
	}
	if len(s.Health) > 0 {
		p.linef("")
	}
	for _, h := range s.Health {
		p.linef("%s: %s", h.Level, h.Text)
		if h.Fix != "" {
			p.linef("      %s", h.Fix)
		}
	}
}

// lossText says what of a peer's packets is lost, if that is worth a word.
func lossText(peer localapi.Peer) string {
	const worth = 0.001
	switch {
	case peer.Repair == nil || peer.State != "connected":
		return ""
	case peer.Repair.TooFast:
		return "packets are lost because of the rate at which they come"
	case *peer.Loss < worth || peer.Repair.Repaired == 0:
		return ""
	}
	return fmt.Sprintf("%.1f %% of what comes is lost on the way, and repaired by parity", 100**peer.Loss)
}

// showSelf prints who this node is.
func showSelf(p *printer, status localapi.Status, now time.Time) {
	s := status.Self
	uptime := ""
	if s.UptimeS != nil {
		uptime = ", up " + (time.Duration(*s.UptimeS) * time.Second).String()
	}
	rows := [][]string{
		{"nodetun", s.Version + uptime},
		{"id", s.ID.String()},
		{"name", s.FQDN},
		{"addresses", strings.TrimSpace(s.IPv6 + " " + strings.TrimPrefix(orDash(s.IPv4), "-"))},
	}
	rows = append(rows, relayRows(status)...)
	rows = append(rows, []string{"NAT", natText(s)})
	direct := strings.Join(s.DirectAddresses, " ")
	rows = append(rows, []string{"reachable at", orDash(&direct)})
	for _, published := range status.Published {
		rows = append(rows, []string{"made known at", publishedText(published, now)})
	}
	p.table(rows)
}

// relayRows are the home relay and what is to be said of others.
func relayRows(status localapi.Status) [][]string {
	failed := 0
	for _, r := range status.Relays {
		if r.State == "failed" {
			failed++
		}
	}
	if failed > 1 && failed == len(status.Relays) {
		return [][]string{{"relay", fmt.Sprintf("none of %d can be reached", failed)}}
	}
	rows := [][]string{{"relay", relayText(status.Self)}}
	for _, r := range status.Relays {
		if status.Self.Relay == nil || r.URL != *status.Self.Relay || r.State != "connected" {
			rows = append(rows, []string{"", relayState(r)})
		}
	}
	return rows
}

func publishedText(p localapi.Publication, now time.Time) string {
	text := p.Server
	if p.Last != nil {
		text += ", " + ago(now.Sub(*p.Last))
	} else {
		text += ", not yet"
	}
	if p.Error != nil {
		text += ": " + *p.Error
	}
	return text
}

func relayText(s localapi.Self) string {
	if s.Relay == nil {
		return "none"
	}
	if s.RelayRTTms == nil {
		return *s.Relay
	}
	return fmt.Sprintf("%s (%.1f ms)", *s.Relay, *s.RelayRTTms)
}

// relayState says how it stands with a relay that is not a home that works.
func relayState(r localapi.Relay) string {
	text := r.URL + " " + r.State
	if r.RTTms != nil {
		text += fmt.Sprintf(" (%.1f ms)", *r.RTTms)
	}
	return text
}

// natText says what kind of NAT is before this node; orDash's dash before that is
// known.
func natText(s localapi.Self) string {
	if s.NAT == nil {
		return orDash(nil)
	}
	return natWords[*s.NAT]
}

// peerLabel is how people know the peer.
func peerLabel(p localapi.Peer) string {
	if p.Name != "" {
		return p.Name
	}
	if p.OnDemand {
		return p.ID.Short() + " (no peer)"
	}
	return p.ID.Short()
}

func peerRows(peers []localapi.Peer, now time.Time) [][]string {
	rows := [][]string{{"PEER", "STATE", "PATH", "NAT", "RTT", "RX", "TX", "LAST SEEN", "ADDRESS"}}
	for _, p := range peers {
		rtt, seen, path := "-", "-", "-"
		if p.RTTms != nil {
			rtt = fmt.Sprintf("%.1f ms", *p.RTTms)
		}
		if p.LastSeen != nil {
			seen = ago(now.Sub(*p.LastSeen))
		}
		if p.Path != "none" {
			path = strings.TrimSpace(p.Path + " " + strings.TrimPrefix(orDash(p.Endpoint), "-"))
		}
		address := p.IPv6
		if p.IPv4 != nil {
			address = *p.IPv4
		}
		rows = append(rows, []string{peerLabel(p), p.State, path, orDash(p.NAT), rtt, bytes(p.RxBytes), bytes(p.TxBytes), seen, address})
	}
	return rows
}

// ago words how long ago something was.
func ago(d time.Duration) string {
	switch {
	case d < 2*time.Second:
		return "now"
	case d < time.Minute:
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	default:
		return fmt.Sprintf("%d days ago", int(d.Hours()/24))
	}
}
