package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodetun/nodetun/internal/atomicfile"
	"github.com/nodetun/nodetun/internal/localapi"
)

// hostKeyAlgorithms are those of the keys that peers vouch for (S23).
const hostKeyAlgorithms = "ssh-ed25519,ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521,rsa-sha2-512,rsa-sha2-256"

func (a *app) sshCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ssh [user@]<peer> [command...]", Short: "ssh to a peer, whose host key the tunnel vouches for", Args: cobra.MinimumNArgs(1),
		Long: "ssh to a peer, without a question about its host key: the peer vouches for that over\n" +
			"the tunnel. Options of ssh go before the peer behind --, or into ~/.ssh/config.",
		Example: "  nodetun ssh nas\n  nodetun ssh me@nas uptime\n  nodetun ssh -- -L 8080:localhost:80 me@nas",
	}
	cmd.Flags().SetInterspersed(false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ssh, err := exec.LookPath("ssh")
		if err != nil {
			return errors.New("there is no program ssh here (install OpenSSH)")
		}
		at, ok := sshTarget(args)
		if !ok {
			return usage(errors.New("which peer? (see: nodetun ssh --help)"))
		}
		user, name, isUser := strings.Cut(args[at], "@")
		if !isUser {
			user, name = "", args[at]
		}
		w, err := a.nodeOf(cmd.Context(), name)
		if err != nil {
			return err
		}
		host := w.FQDN
		options, err := a.sshOptions(!resolves(cmd.Context(), host))
		if err != nil {
			return err
		}
		argv := []string{"ssh"}
		for _, o := range options {
			argv = append(argv, "-o", o[0]+"="+o[1])
		}
		argv = append(argv, args[:at]...)
		if isUser {
			host = user + "@" + host
		}
		argv = append(argv, host)
		return become(ssh, append(argv, args[at+1:]...))
	}
	return cmd
}

// sshTarget finds the destination among the arguments of ssh: the first that is no option, and
// no value of one.
func sshTarget(args []string) (at int, ok bool) {
	const takeValue = "BbcDEeFIiJLlmOoPpQRSWw" // ssh(1)
	for i := 0; i < len(args); i++ {
		switch arg := args[i]; {
		case !strings.HasPrefix(arg, "-"):
			return i, true
		case len(arg) == 2 && strings.Contains(takeValue, arg[1:]):
			i++
		}
	}
	return 0, false
}

// nodeOf finds a node, which need not be a peer, by any of its names.
func (a *app) nodeOf(ctx context.Context, name string) (localapi.Whois, error) {
	b := a.client()
	self, err := b.Self(ctx)
	if err != nil {
		return localapi.Whois{}, err
	}
	return b.Whois(ctx, strings.TrimSuffix(strings.TrimSuffix(name, "."), "."+self.Zone))
}

// resolves reports whether programs of this host find the address of a name.
func resolves(ctx context.Context, host string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupHost(ctx, host)
	return err == nil && len(addrs) > 0
}

// sshOptions are those for hosts of the zone.
func (a *app) sshOptions(proxy bool) ([][2]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(self+a.socket, " \t\"'\\%") {
		return nil, fmt.Errorf("ssh cannot run %s by that path", self)
	}
	if a.socket != systemSocket {
		self += " --socket " + a.socket
	}
	options := [][2]string{
		{"KnownHostsCommand", self + " known-hosts %H"},
		{"StrictHostKeyChecking", "yes"},
		{"UserKnownHostsFile", "none"},
		{"UpdateHostKeys", "no"},
		{"HostKeyAlgorithms", hostKeyAlgorithms},
	}
	if proxy {
		// A shell reads this line, and older versions of ssh take any name.
		options = append(options, [2]string{"ProxyCommand", self + " nc '%h' %p"})
	}
	return options, nil
}

func (a *app) knownHostsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "known-hosts <name>", Short: "print the host keys that a node of the zone vouches for, for ssh", Args: cobra.ExactArgs(1), Hidden: true}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		asked := args[0]
		name := asked // of another port it is [name]:port
		if inner, _, ok := strings.Cut(strings.TrimPrefix(asked, "["), "]:"); ok && strings.HasPrefix(asked, "[") {
			name = inner
		}
		keys, err := a.client().HostKeys(cmd.Context(), name)
		if err != nil {
			return err
		}
		for _, key := range keys.Keys {
			fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", asked, key)
		}
		if len(keys.Keys) == 0 {
			return fmt.Errorf("%s vouches for no ssh host key: it does not let this machine reach tcp/22, or has no ssh server", name)
		}
		return nil
	}
	return cmd
}

func (a *app) ncCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "nc <peer> <port>", Short: "connect the standard input and output with a TCP port of a peer", Args: cobra.ExactArgs(2),
		Example: "  nodetun nc nas 22\n  ssh -o ProxyCommand=\"nodetun nc '%h' %p\" nas.node.internal",
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		port, err := strconv.ParseUint(args[1], 10, 16)
		if err != nil || port == 0 {
			return usage(fmt.Errorf("%q is no port", args[1]))
		}
		w, err := a.nodeOf(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		conn, err := new(net.Dialer).DialContext(cmd.Context(), "tcp", net.JoinHostPort(w.IPv6, args[1]))
		if err != nil {
			if op := new(net.OpError); errors.As(err, &op) {
				err = op.Err
			}
			return &codedError{exitUnreachable, fmt.Errorf("%s port %d: %w", args[0], port, err)}
		}
		defer conn.Close()
		go func() { // ends with the process
			_, _ = io.Copy(conn, cmd.InOrStdin())
			_ = conn.(*net.TCPConn).CloseWrite()
		}()
		_, err = io.Copy(cmd.OutOrStdout(), conn)
		return err
	}
	return cmd
}

// sshConfigFile is where ssh finds what --install writes.
const (
	sshConfigDir  = "/etc/ssh/ssh_config.d"
	sshConfigFile = sshConfigDir + "/20-nodetun.conf"
	sshConfigMain = "/etc/ssh/ssh_config"
)

func (a *app) sshConfigCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ssh-config", Short: "have ssh, scp, sftp, rsync and git ask no question about host keys of peers",
		Long: "Print what makes ssh, and all that uses it, take the host keys of peers from the tunnel:\n" +
			"without a question the first time, without a warning after the peer was installed anew.\n" +
			"It is for names of the zone only. Users besides root belong into the group nodetun.",
		Example: "  sudo nodetun ssh-config --install     # for all users: " + sshConfigFile + "\n" +
			"  nodetun ssh-config >> ~/.ssh/config   # for one",
	}
	var install, remove, proxy bool
	cmd.Flags().BoolVar(&install, "install", false, "write it to "+sshConfigFile)
	cmd.Flags().BoolVar(&remove, "remove", false, "take that file out again")
	cmd.Flags().BoolVar(&proxy, "proxy", false, "connect by nodetun nc, for hosts where names of the zone do not resolve")
	cmd.MarkFlagsMutuallyExclusive("install", "remove")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if remove {
			err := os.Remove(sshConfigFile)
			if errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
			return err
		}
		settings, err := a.settings()
		if err != nil {
			return err
		}
		text, err := a.sshConfig(settings.Zone, proxy)
		if err != nil {
			return err
		}
		if !install {
			_, err := io.WriteString(cmd.OutOrStdout(), text)
			return err
		}
		if main, err := os.ReadFile(sshConfigMain); err != nil || !includesDropIns(string(main)) {
			return fmt.Errorf("%s does not read %s (put this line at its top: Include %s/*.conf)", sshConfigMain, sshConfigDir, sshConfigDir)
		}
		if err := os.MkdirAll(sshConfigDir, 0o755); err != nil {
			return err
		}
		if err := atomicfile.Write(sshConfigFile, []byte(text), 0o644); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "wrote %s (to undo: sudo nodetun ssh-config --remove)\n", sshConfigFile)
		return nil
	}
	return cmd
}

// sshConfig is what ssh reads.
func (a *app) sshConfig(zone string, proxy bool) (string, error) {
	options, err := a.sshOptions(proxy)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# Written by nodetun ssh-config: host keys of peers come from the tunnel.\nHost *.%s\n", strings.TrimSuffix(zone, "."))
	for _, o := range options {
		fmt.Fprintf(&b, "\t%s %s\n", o[0], o[1])
	}
	return b.String(), nil
}

// offersSSHConfig reports whether there is an ssh client here that could be told, and was not.
func offersSSHConfig() bool {
	if _, err := os.Stat(sshConfigFile); err == nil {
		return false
	}
	main, err := os.ReadFile(sshConfigMain)
	return err == nil && includesDropIns(string(main))
}

// includesDropIns reports whether a configuration of ssh reads the files beside it.
func includesDropIns(text string) bool {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) > 1 && strings.EqualFold(words[0], "Include") && filepath.Dir(words[1]) == sshConfigDir {
			return true
		}
	}
	return false
}

// become runs another program in the place of this one.
func become(path string, argv []string) error {
	return fmt.Errorf("%s: %w", path, syscall.Exec(path, argv, os.Environ()))
}
