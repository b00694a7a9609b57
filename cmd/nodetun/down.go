package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodetun/nodetun/internal/config"
	"github.com/nodetun/nodetun/internal/daemon"
	"github.com/nodetun/nodetun/internal/localapi"
)

// downTimeout is how long `down` waits for the node to be gone.
const downTimeout = 15 * time.Second

func (a *app) downCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "down", Short: "stop the node and undo every change of this host; fine when nothing runs"}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		running, err := a.client().Running()
		if err != nil {
			return err
		}
		if running {
			ctx, cancel := context.WithTimeout(cmd.Context(), downTimeout)
			defer cancel()
			if err := a.client().Down(ctx); err != nil {
				return err
			}
			return a.client().Gone(ctx)
		}
		if err := a.endUnheard(cmd.Context()); err != nil {
			return err
		}
		if err := localapi.RemoveStale(a.socket); err != nil {
			return err
		}
		// Not by way of the settings: a broken file must not keep a crashed run's
		// changes on the host.
		return daemon.CleanUp(a.stateDir)
	}
	return cmd
}

// endUnheard ends a node whose control socket is gone. It is found by the lock of the
// state directory: while it lives nothing of the host may be taken from under it.
func (a *app) endUnheard(ctx context.Context) error {
	unlock, err := config.LockState(a.stateDir)
	switch {
	case err == nil:
		unlock()
		return nil
	case errors.Is(err, fs.ErrNotExist): // no state directory: nothing ever ran
		return nil
	case !errors.Is(err, config.ErrLocked):
		return err
	}
	pid := config.LockHolder(a.stateDir)
	if pid == 0 {
		return fmt.Errorf("a node runs on %s without its socket %s (end that process, then try again)", a.stateDir, a.socket)
	}
	process, err := os.FindProcess(pid)
	if err == nil {
		err = process.Signal(syscall.SIGTERM)
	}
	if err != nil {
		return fmt.Errorf("end the node, process %d: %w", pid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, downTimeout)
	defer cancel()
	for {
		unlock, err := config.LockState(a.stateDir) // waits for a second
		if err == nil {
			unlock()
			return nil
		}
		if !errors.Is(err, config.ErrLocked) || ctx.Err() != nil {
			return fmt.Errorf("the node, process %d, is still running: %w", pid, err)
		}
	}
}
