package main

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodetun/nodetun/internal/localapi"
)

func (a *app) netcheckCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "netcheck", Short: "look at the network around this node: NAT, UDP, relays, port mapping (the node need not run)"}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		backend, err := a.backend()
		if err != nil {
			return err
		}
		report, err := backend.Netcheck(cmd.Context(), a.progress(cmd))
		if err != nil {
			return err
		}
		return a.print(cmd, report, func(p *printer) { showNetcheck(p, report) })
	}
	return a.jsonFlag(cmd)
}

// natWords says what each kind of NAT means.
var natWords = map[string]string{
	"none":    "none: this host has a public address",
	"easy":    "easy: every destination sees the same address",
	"hard":    "hard: each destination sees another address",
	"blocked": "blocked: no UDP gets out",
	"unknown": "unknown: fewer than two STUN servers answered",
}

// showNetcheck prints the report for people.
func showNetcheck(p *printer, n localapi.Netcheck) {
	mapping := "none"
	if n.Portmap != nil {
		var spoken []string
		for _, protocol := range []struct {
			name string
			ok   bool
		}{{"UPnP", n.Portmap.UPnP}, {"PCP", n.Portmap.PCP}, {"NAT-PMP", n.Portmap.NATPMP}} {
			if protocol.ok {
				spoken = append(spoken, protocol.name)
			}
		}
		if len(spoken) > 0 {
			mapping = strings.Join(spoken, " ")
		}
	}
	if n.MappingAddr != "" {
		mapping += ", in use: " + n.MappingAddr + " by " + n.Mapping
	}
	nat := natWords[n.NAT]
	if n.PortDelta != 0 {
		nat += fmt.Sprintf(", ports counted up by %d", n.PortDelta)
	}
	preferred := n.Preferred.String()
	p.table([][]string{
		{"UDP", yesNo(n.UDP)},
		{"IPv4", familyText(n.IPv4, n.GlobalV4)},
		{"IPv6", familyText(n.IPv6, n.GlobalV6)},
		{"NAT", nat},
		{"hairpin", n.Hairpin.String()},
		{"port mapping", mapping},
		{"captive portal", n.CaptivePortal.String()},
		{"nearest relay", orDash(&preferred)},
	})
	for _, proxy := range n.Proxies {
		p.linef("relays are reached by the proxy %s, as %s says", proxy.URL, proxy.From)
	}
	for _, link := range n.LinksLeftOut {
		p.linef("the addresses of %s are not used: it is %s", link.Name, link.Why)
	}
	if len(n.Relays) == 0 {
		return
	}
	p.linef("")
	rows := [][]string{{"RELAY", "STUN", "STUN6", "HTTPS", "ICMP", ""}}
	for _, r := range n.Relays {
		rows = append(rows, []string{r.URL.String(), latency(r.STUNv4), latency(r.STUNv6), latency(r.HTTPS), latency(r.ICMP), r.Err})
	}
	p.table(rows)
}

func familyText(ok bool, global netip.AddrPort) string {
	if !ok || !global.IsValid() {
		return yesNo(ok)
	}
	return "yes, seen as " + global.String()
}

func latency(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}
