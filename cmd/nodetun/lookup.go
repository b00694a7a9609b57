package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodetun/nodetun/internal/localapi"
)

func (a *app) lookupCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "lookup <id>", Short: "show what each source of discovery says about a node (this one need not run)", Args: cobra.ExactArgs(1)}
	cmd.RunE = read(a, func(ctx context.Context, b localapi.Backend, args []string) (localapi.Lookup, error) {
		return b.Lookup(ctx, args[0])
	}, showLookup)
	return a.jsonFlag(cmd)
}

func (a *app) hostsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "hosts", Short: "list every host that this configuration contacts, and why (this node need not run)", Args: cobra.NoArgs}
	cmd.RunE = read(a, func(ctx context.Context, b localapi.Backend, _ []string) ([]localapi.HostUse, error) {
		return b.Hosts(ctx)
	}, func(p *printer, hosts []localapi.HostUse) {
		rows := [][]string{{"HOST", "BY", "SETTING", "WHY"}}
		for _, h := range hosts {
			rows = append(rows, []string{h.Host, h.By, h.Setting, h.Why})
		}
		p.table(rows)
	})
	return a.jsonFlag(cmd)
}

// showLookup prints the answers for people.
func showLookup(p *printer, l localapi.Lookup) {
	p.linef("%s", l.ID)
	rows := [][]string{{"SOURCE", "TOOK", "SIGNED", "SAYS"}}
	for _, s := range l.Sources {
		took, signed := "-", "-"
		if s.TookMS != nil {
			took = fmt.Sprintf("%.0f ms", *s.TookMS)
		}
		if s.Signed != nil {
			signed = ago(time.Since(*s.Signed))
		}
		rows = append(rows, []string{s.Name, took, signed, sourceSays(s)})
	}
	p.table(rows)
}

func sourceSays(s localapi.LookupSource) string {
	var words []string
	switch {
	case s.Off != "":
		return "off: " + s.Off
	case s.Error != nil:
		words = append(words, *s.Error)
	case !s.Found:
		words = append(words, "nothing")
	case s.Relay == nil && len(s.Addrs) == 0:
		words = append(words, "it is there, and does not say where")
	}
	if s.Relay != nil {
		words = append(words, *s.Relay)
	}
	words = append(words, s.Addrs...)
	if s.Server != "" {
		words = append(words, "("+s.Server+")")
	}
	return strings.Join(words, " ")
}
