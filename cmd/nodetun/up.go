package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/config"
	"github.com/nodetun/nodetun/internal/daemon"
	"github.com/nodetun/nodetun/internal/filecheck"
	"github.com/nodetun/nodetun/internal/localapi"
	"github.com/nodetun/nodetun/internal/plaintext"
	"github.com/nodetun/nodetun/internal/rules"
)

// settingFlags are the flags of `up` that override one setting each.
type settingFlags struct {
	dns, name, discovery, bind string
	relays                     []string
	noPortmap                  bool
	set                        *pflag.FlagSet
}

func (f *settingFlags) register(flags *pflag.FlagSet) {
	f.set = flags
	flags.StringVar(&f.name, "name", "", "this node's own `name` (default: the host's)")
	flags.StringVar(&f.bind, "bind", "", "`address` of the UDP socket, or one of each family")
	flags.StringArrayVar(&f.relays, "relay", nil, "`URL` of a relay (repeatable), or none")
	flags.StringVar(&f.discovery, "discovery", "", "none, or the `URL` of a discovery server")
	flags.StringVar(&f.dns, "dns", "", "`way` in which the host learns names: auto, resolved, networkmanager, resolvconf, file, none (default auto)")
	flags.BoolVar(&f.noPortmap, "no-portmap", false, "ask no router for a port mapping")
}

// override is one flag that sets one setting.
type override struct {
	flag, key string
	value     any
}

// apply overrides the settings by the flags that were given.
func (f *settingFlags) apply(s *config.Settings) error {
	return applyFlags(s, f.set, []override{
		{"name", "name", f.name},
		{"bind", "bind", f.bind},
		{"relay", "relays", f.relays},
		{"discovery", "discovery", f.discovery},
		{"dns", "dns", f.dns},
		{"no-portmap", "portmap", !f.noPortmap},
	})
}

// applyFlags sets what was given on the command line.
func applyFlags(s *config.Settings, set *pflag.FlagSet, list []override) error {
	for _, o := range list {
		if !set.Changed(o.flag) {
			continue
		}
		if err := s.Set(o.key, o.value); err != nil {
			return usage(fmt.Errorf("--%s: %w", o.flag, err))
		}
	}
	return nil
}

// gcPercent lets the heap of a running node grow to five times of what lives.
// That is a few MiB, and a bulk flow spends an eighth less on collecting.
const gcPercent = 400

func (a *app) upCommand() *cobra.Command {
	var flags settingFlags
	var peers []string
	var detach, dryRun bool
	var keyLog string
	cmd := &cobra.Command{
		Use: "up", Short: "run this node: network interface, addresses, routes, names",
		Long:    "Run this node in the foreground until ^C or `nodetun down`, which undo every change of\nthis host. The first start makes the node's key.",
		Example: "  sudo nodetun up\n  sudo nodetun up --detach --relay https://relay.example.org",
	}
	flags.register(cmd.Flags())
	cmd.Flags().StringArrayVar(&peers, "peer", nil, "peer for this run only, `ID` or ID@ip:port (repeatable)")
	cmd.Flags().BoolVar(&detach, "detach", false, "return when the tunnel is up; it goes on in the background")
	cmd.Flags().StringVar(&keyLog, "keylog", "", "`file` for the secrets of all connections, in the format of NSS, to decrypt captured packets with")
	_ = cmd.Flags().MarkHidden("keylog") // it is there
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "change nothing, and say what would be changed")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		load := func() (config.Settings, error) {
			settings, err := a.settings()
			if err == nil {
				err = flags.apply(&settings)
			}
			return settings, err
		}
		settings, err := load()
		if err != nil {
			return err
		}
		extra, err := parsePeers(peers)
		if err != nil {
			return usage(err)
		}
		if dryRun {
			return a.showPlan(cmd, &settings)
		}
		if err := daemon.CheckPrivilege(); err != nil {
			return err
		}
		if detach {
			return a.detachUp(cmd)
		}
		outliveReaders()
		output := cmd.ErrOrStderr()
		if detached() {
			if output, err = openLog(a.logPath()); err != nil {
				return err
			}
		}
		secrets, err := openKeyLog(keyLog)
		if err != nil {
			return err
		}
		level := new(slog.LevelVar)
		level.Set(settings.LogLevel)
		if os.Getenv("GOGC") == "" {
			debug.SetGCPercent(gcPercent)
		}
		return daemon.Run(cmd.Context(), daemon.Config{
			Settings: settings, StateDir: a.stateDir, Socket: a.socket, Peers: extra, Version: version,
			Logger: newLogger(output, settings.LogFormat, level), Level: level, KeyLog: secrets, Reload: load,
			Ready: func(s localapi.Status, ticket localapi.Ticket) {
				if !detached() {
					showReady(&printer{cmd.OutOrStdout()}, s, ticket)
					return
				}
				var report strings.Builder
				showReady(&printer{&report}, s, ticket)
				tellParent(report.String())
			},
			TicketChanged: func(ticket localapi.Ticket) {
				if !detached() {
					p := &printer{cmd.OutOrStdout()}
					p.linef("this machine has other addresses now; to be reached:")
					showTicket(p, ticket)
				}
			},
		})
	}
	return cmd
}

// openKeyLog opens the file for the secrets of connections, which nobody else may read (S5).
// There is no other way to name one; an empty path is none.
func openKeyLog(path string) (io.Writer, error) {
	if path == "" {
		return nil, nil
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, usage(fmt.Errorf("--keylog: %w", err))
	}
	info, err := file.Stat()
	if err == nil {
		err = filecheck.Secret(path, "the secrets", info)
	}
	if err != nil {
		return nil, errors.Join(usage(fmt.Errorf("--keylog: %w", err)), file.Close())
	}
	return file, nil
}

// showPlan prints what a start would change.
func (a *app) showPlan(cmd *cobra.Command, s *config.Settings) error {
	plan, err := daemon.Plan(s, a.stateDir, a.socket)
	if err != nil {
		return err
	}
	p := &printer{cmd.OutOrStdout()}
	p.linef("nothing was changed; `nodetun up` would")
	for _, line := range plan {
		p.linef("  %s", line)
	}
	p.linef("and `nodetun down`, or its end, takes all of that back but the files. Whom it contacts: nodetun hosts")
	return nil
}

// newLogger makes the logger that the settings ask for.
func newLogger(w io.Writer, format string, level slog.Leveler) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(newRepeats(slog.NewJSONHandler(w, options)))
	}
	return slog.New(newRepeats(slog.NewTextHandler(w, options)))
}

// logPath is where a detached node writes what it would print.
func (a *app) logPath() string { return filepath.Join(a.stateDir, "nodetun.log") }

// parsePeers reads ID or ID@ip:port.
func parsePeers(list []string) ([]config.Peer, error) {
	var peers []config.Peer
	for _, text := range list {
		name, where, located := strings.Cut(text, "@")
		id, err := identity.ParseNodeID(plaintext.Trim(name))
		if err != nil {
			return nil, fmt.Errorf("--peer: %w", err)
		}
		p := config.Peer{ID: id, Rules: rules.Default()}
		if located {
			addr, err := config.ParseAddrPort(where)
			if err != nil {
				return nil, fmt.Errorf("--peer: %w", err)
			}
			p.Addrs = []netip.AddrPort{addr}
		}
		peers = append(peers, p)
	}
	return peers, nil
}

// showReady says who this node is and what to send to a friend.
func showReady(p *printer, s localapi.Status, ticket localapi.Ticket) {
	ipv4 := ""
	if s.Self.IPv4 != nil {
		ipv4 = "  " + *s.Self.IPv4
	}
	p.table([][]string{
		{"id", s.Self.ID.String()},
		{"name", s.Self.FQDN},
		{"addresses", s.Self.IPv6 + ipv4},
	})
	switch s.Self.DNS {
	case "file", "networkmanager", "resolvconf":
		p.linef("names in %s resolve: /etc/resolv.conf asks this node first (to leave the file alone: --dns none)", s.Self.Zone)
	}
	p.linef("to let another machine in, make a line for it: sudo nodetun invite")
	p.linef("or add its id here (sudo nodetun peer add <id>) and run there:")
	showTicket(p, ticket)
	if offersSSHConfig() {
		p.linef("to be asked nothing by ssh about host keys of peers: sudo nodetun ssh-config --install (to undo: --remove)")
	}
	for _, h := range s.Health {
		p.linef("%s: %s", h.Level, h.Text)
		if h.Fix != "" {
			p.linef("      %s", h.Fix)
		}
	}
}

func showTicket(p *printer, ticket localapi.Ticket) {
	p.linef("  sudo nodetun peer add %s", ticket.Ticket)
}
