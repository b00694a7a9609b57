package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"github.com/spf13/cobra"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/daemon"
	"github.com/nodetun/nodetun/internal/localapi"
)

func (a *app) versionCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "version", Short: "print the version"}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.print(cmd, map[string]string{"version": version}, func(p *printer) { p.linef("nodetun %s", version) })
	}
	return a.jsonFlag(cmd)
}

// idView is the JSON of `id`.
type idView struct {
	ID    identity.NodeID `json:"id"`
	Hex   string          `json:"hex"`
	Short string          `json:"short"`
}

func (a *app) idCommand() *cobra.Command {
	var create bool
	cmd := &cobra.Command{Use: "id", Short: "print this node's id (reads the key file; the node need not run)"}
	cmd.Flags().BoolVar(&create, "create", false, "make the key if there is none")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		id, err := a.ownID(cmd.Context(), create)
		if err != nil {
			return err
		}
		return a.print(cmd, idView{ID: id, Hex: id.Hex(), Short: id.Short()}, func(p *printer) { p.linef("%s", id) })
	}
	return a.jsonFlag(cmd)
}

// ownID reads the key file, or asks the running node where that may not be
// read.
func (a *app) ownID(ctx context.Context, create bool) (identity.NodeID, error) {
	load := func(dir string) (*identity.SecretKey, error) { return identity.LoadSecretKey(daemon.KeyPath(dir)) }
	if create {
		load = daemon.LoadOrCreateKey
	}
	key, err := load(a.stateDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = daemon.ErrNoKey
	case errors.Is(err, fs.ErrPermission):
		if self, askErr := a.client().Self(ctx); askErr == nil {
			return self.ID, nil
		}
	}
	if err != nil {
		return identity.NodeID{}, err
	}
	return key.NodeID(), nil
}

// ipView is the JSON of `ip`.
type ipView struct {
	ID   identity.NodeID `json:"id"`
	IPv6 string          `json:"ipv6"`
	IPv4 *string         `json:"ipv4"`
}

func (a *app) ipCommand() *cobra.Command {
	var only4, only6 bool
	cmd := &cobra.Command{Use: "ip [peer]", Short: "print overlay addresses, of this node or a peer", Args: cobra.MaximumNArgs(1)}
	cmd.Flags().BoolVarP(&only4, "4", "4", false, "IPv4 only")
	cmd.Flags().BoolVarP(&only6, "6", "6", false, "IPv6 only")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if only4 && only6 {
			return usage(errors.New("-4 and -6 exclude each other"))
		}
		return nil
	}
	cmd.RunE = read(a, askIP, func(p *printer, v ipView) {
		if !only4 {
			p.linef("%s", v.IPv6)
		}
		if !only6 && v.IPv4 != nil {
			p.linef("%s", *v.IPv4)
		}
	})
	return a.jsonFlag(cmd)
}

// askIP finds the addresses of the named peer, or this node's own.
func askIP(ctx context.Context, b localapi.Backend, args []string) (ipView, error) {
	if len(args) == 0 {
		self, err := b.Self(ctx)
		return ipView{ID: self.ID, IPv6: self.IPv6, IPv4: self.IPv4}, err
	}
	entry, err := findEntry(ctx, b, args[0])
	return ipView{ID: entry.ID, IPv6: entry.IPv6, IPv4: entry.IPv4}, err
}

func (a *app) nameCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "name", Short: "print this node's name"}
	cmd.RunE = read(a, func(ctx context.Context, b localapi.Backend, _ []string) (localapi.Self, error) { return b.Self(ctx) },
		func(p *printer, self localapi.Self) { p.linef("%s", self.FQDN) })
	return a.jsonFlag(cmd)
}

func (a *app) ticketCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "ticket", Short: "print this node's ticket: its id and where it is, in one word"}
	cmd.RunE = read(a, func(ctx context.Context, b localapi.Backend, _ []string) (localapi.Ticket, error) {
		return b.Ticket(ctx)
	},
		func(p *printer, t localapi.Ticket) { p.linef("%s", t.Ticket) })
	return a.jsonFlag(cmd)
}

func (a *app) whoisCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "whois <addr|name>", Short: "say which node an overlay address or name belongs to", Args: cobra.ExactArgs(1)}
	cmd.RunE = read(a, func(ctx context.Context, b localapi.Backend, args []string) (localapi.Whois, error) {
		return b.Whois(ctx, args[0])
	},
		func(p *printer, w localapi.Whois) {
			p.table([][]string{{"id", w.ID.String()}, {"name", orDash(&w.Name)}, {"kind", w.Kind}, {"ipv6", w.IPv6}, {"ipv4", orDash(w.IPv4)}})
		})
	return a.jsonFlag(cmd)
}

// findEntry finds a peer by what a user calls it.
func findEntry(ctx context.Context, b localapi.Backend, text string) (localapi.PeerEntry, error) {
	entries, err := b.Peers(ctx)
	if err != nil {
		return localapi.PeerEntry{}, err
	}
	at, err := matchEntry(entries, text)
	if err != nil {
		return localapi.PeerEntry{}, err
	}
	return entries[at], nil
}

// minPrefix is how much of a NodeID names a peer.
const minPrefix = 4

// matchEntry finds the entry with the petname, address or NodeID, or the one
// whose NodeID alone begins so.
func matchEntry(entries []localapi.PeerEntry, text string) (int, error) {
	id, _ := identity.ParseNodeID(text)
	exact := slices.IndexFunc(entries, func(e localapi.PeerEntry) bool {
		return e.Name == text || e.FQDN == text || !id.IsZero() && e.ID == id || isAddr(e, text)
	})
	if exact >= 0 {
		return exact, nil
	}
	found := -1
	for i, e := range entries {
		if len(text) < minPrefix || len(text) > len(e.ID.String()) || e.ID.String()[:len(text)] != text {
			continue
		}
		if found >= 0 {
			return 0, fmt.Errorf("%q is the beginning of more than one peer", text)
		}
		found = i
	}
	if found < 0 {
		return 0, localapi.Wrap(localapi.KindNotFound, fmt.Errorf("no such peer: %q (see: nodetun peer ls)", identity.Clean(text, 80)))
	}
	return found, nil
}

func isAddr(e localapi.PeerEntry, text string) bool {
	addr, err := netip.ParseAddr(text)
	return err == nil && (addr.String() == e.IPv6 || e.IPv4 != nil && addr.String() == *e.IPv4)
}
