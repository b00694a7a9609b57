package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

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
		if err := localapi.RemoveStale(a.socket); err != nil {
			return err
		}
		// Not by way of the settings: a broken file must not keep a crashed run's
		// changes on the host.
		return daemon.CleanUp(a.stateDir)
	}
	return cmd
}
