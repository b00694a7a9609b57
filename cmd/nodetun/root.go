package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nodetun/nodetun/internal/config"
	"github.com/nodetun/nodetun/internal/daemon"
	"github.com/nodetun/nodetun/internal/localapi"
)

// app is what every command shares: the common flags and what follows from
// them.
type app struct {
	stateDir, socket, configFile   string
	port, tun, logLevel, logFormat string
	json                           bool
	flags                          *pflag.FlagSet
	// began is set once the command line was understood.
	began bool
}

// newRoot makes the tree of commands.
func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:           "nodetun",
		Short:         "every machine reachable by its key",
		Long:          "nodetun makes every machine reachable by its key: after `sudo nodetun up`,\n`ssh <NodeID>.node.internal` reaches that very machine wherever it is.",
		SilenceErrors: true, SilenceUsage: true,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.stateDir, "state-dir", "/var/lib/nodetun", "`directory` of the key and the peers")
	flags.StringVar(&a.configFile, "config", "/etc/nodetun/nodetun.toml", "`file` of settings")
	flags.StringVar(&a.socket, "socket", defaultSocket(), "`path` of the control socket")
	flags.StringVar(&a.tun, "tun", "", "`name` of the network interface (default nodetun0)")
	flags.StringVar(&a.port, "port", "", fmt.Sprintf("UDP `port`, 0 for any free one (default %d)", config.DefaultPort))
	flags.StringVar(&a.logLevel, "log-level", "", "`level` of the log: debug, info, warn or error (default info)")
	flags.StringVar(&a.logFormat, "log-format", "", "`format` of the log: text or json (default text)")
	a.flags = flags
	root.AddCommand(
		a.upCommand(), a.downCommand(), a.statusCommand(), a.idCommand(), a.ipCommand(), a.nameCommand(), a.whoisCommand(), a.ticketCommand(),
		a.peerCommand(), a.inviteCommand(), a.joinCommand(), a.pairCommand(), a.allowCommand(), a.denyCommand(), a.checkCommand(), a.forgetCommand(), a.sshCommand(), a.ncCommand(), a.sshConfigCommand(), a.knownHostsCommand(), a.pingCommand(), a.whyCommand(), a.netcheckCommand(), a.doctorCommand(), a.lookupCommand(), a.hostsCommand(), a.relayCommand(), a.discoveryCommand(), a.versionCommand(),
	)
	for _, cmd := range root.Commands() {
		a.finish(cmd)
	}
	return root
}

// finish makes a command, and those below it, take no arguments unless it says
// otherwise, name the help when they are wrong, and note that it began.
func (a *app) finish(cmd *cobra.Command) {
	check, work := cmd.Args, cmd.RunE
	if check == nil {
		check = cobra.NoArgs
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return fmt.Errorf("%w (see: %s --help)", err, cmd.CommandPath())
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		a.began = true
		return work(cmd, args)
	}
	for _, child := range cmd.Commands() {
		a.finish(child)
	}
}

// systemSocket is where the node of this machine is asked.
const systemSocket = "/run/nodetun/nodetun.sock"

// defaultSocket is that of the machine's node, unless the user runs one of
// their own.
func defaultSocket() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && os.Geteuid() != 0 {
		own := filepath.Join(dir, "nodetun", "nodetun.sock")
		if _, err := os.Stat(own); err == nil {
			return own
		}
	}
	return systemSocket
}

// settings reads the file of settings, which the common flags override.
func (a *app) settings() (config.Settings, error) {
	s, err := config.Load(a.configFile)
	if err != nil {
		return s, err
	}
	return s, applyFlags(&s, a.flags, []override{
		{"tun", "tun", a.tun},
		{"port", "port", a.port},
		{"log-level", "log_level", a.logLevel},
		{"log-format", "log_format", a.logFormat},
	})
}

// client asks a running node.
func (a *app) client() *localapi.Client { return localapi.NewClient(a.socket) }

// backend is the running node, or the files of one that does not run.
func (a *app) backend() (localapi.Backend, error) {
	running, err := a.client().Running()
	if err != nil {
		return nil, err
	}
	if running {
		return a.client(), nil
	}
	return a.offline()
}

// offline answers from files.
func (a *app) offline() (*daemon.Offline, error) {
	settings, err := a.settings()
	if err != nil {
		return nil, err
	}
	return &daemon.Offline{StateDir: a.stateDir, Settings: settings, Version: version}, nil
}

// jsonFlag adds --json to a command that reads.
func (a *app) jsonFlag(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVar(&a.json, "json", false, "print JSON (docs/cli.md)")
	return cmd
}

// read makes a command that asks for a value and shows it.
func read[T any](a *app, ask func(context.Context, localapi.Backend, []string) (T, error), show func(*printer, T)) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		backend, err := a.backend()
		if err != nil {
			return err
		}
		value, err := ask(cmd.Context(), backend, args)
		if err != nil {
			return err
		}
		return a.print(cmd, value, func(p *printer) { show(p, value) })
	}
}
