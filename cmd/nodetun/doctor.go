package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nodetun/nodetun/internal/doctor"
	"github.com/nodetun/nodetun/internal/localapi"
)

func (a *app) doctorCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "doctor", Short: "look for what keeps nodetun from working on this host, and say what helps"}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.examine(cmd, true) }
	dns := &cobra.Command{Use: "dns", Short: "ask for a name as ssh does, and say where the way to the answer ends"}
	dns.RunE = func(cmd *cobra.Command, _ []string) error { return a.examine(cmd, false) }
	cmd.AddCommand(a.jsonFlag(dns))
	return a.jsonFlag(cmd)
}

// examine looks at names, and, if wanted, at all the rest.
func (a *app) examine(cmd *cobra.Command, all bool) error {
	status, err := a.client().Status(cmd.Context())
	var findings []doctor.Finding
	switch {
	case err != nil && (!all || localapi.KindOf(err) != localapi.KindNotRunning):
		return err
	case err != nil:
		_, settings := a.settings()
		findings = doctor.Idle(settings)
	default:
		if all {
			host := doctor.LookAtHost(cmd.Context(), status)
			findings = host.Findings()
		}
		names := doctor.LookAtNames(cmd.Context(), &status.Self)
		findings = append(findings, names.Findings()...)
	}
	if err := a.print(cmd, findings, func(p *printer) { showFindings(p, findings) }); err != nil {
		return err
	}
	switch n := doctor.Problems(findings); n {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("one problem was found")
	default:
		return fmt.Errorf("%d problems were found", n)
	}
}

// showFindings prints a line for each, and what helps below it.
func showFindings(p *printer, list []doctor.Finding) {
	width := 0
	for _, f := range list {
		width = max(width, len(f.Subject))
	}
	for _, f := range list {
		state := "ok     "
		if !f.OK {
			state = "problem"
		}
		p.linef("%s  %-*s  %s", state, width, f.Subject, f.Text)
		if f.Fix != "" {
			p.linef("%s  %-*s  to do: %s", "       ", width, "", f.Fix)
		}
	}
}
