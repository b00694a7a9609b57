package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodetun/nodetun/internal/localapi"
)

// Times of `ping`.
const (
	pingEvery   = time.Second
	pingTimeout = 5 * time.Second
	untilDirect = 30 // tries of --until-direct, if -c says nothing
)

func (a *app) pingCommand() *cobra.Command {
	var count int
	var direct bool
	cmd := &cobra.Command{Use: "ping <peer>", Short: "measure round trips through the tunnel, and show the path of each", Args: cobra.ExactArgs(1)}
	cmd.Flags().IntVarP(&count, "count", "c", 4, "`number` of pings, 0 for no end")
	cmd.Flags().BoolVar(&direct, "until-direct", false, "stop at the first one that went direct; exit code 5 if none does")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if direct && !cmd.Flags().Changed("count") {
			count = untilDirect
		}
		return a.ping(cmd, args[0], count, direct)
	}
	return a.jsonFlag(cmd)
}

// ping sends count pings, one a second.
func (a *app) ping(cmd *cobra.Command, peer string, count int, direct bool) error {
	ctx, client := cmd.Context(), a.client()
	request := localapi.PingRequest{Peer: peer, TimeoutMS: pingTimeout.Milliseconds()}
	var lastErr error
	answered := 0
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for n := 1; count == 0 || n <= count; n++ {
		reply, err := client.Ping(ctx, request)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && exitCode(err) != exitUnreachable:
			return err
		case err != nil:
			lastErr = err
			fmt.Fprintf(cmd.ErrOrStderr(), "nodetun: %s\n", shown(err.Error()))
		default:
			answered++
			if err := a.print(cmd, reply, func(p *printer) {
				p.linef("pong from %s: %.2f ms by %s %s", reply.Peer, reply.RTTms, reply.Path, reply.Endpoint)
			}); err != nil {
				return err
			}
			if direct && reply.Path == "direct" {
				return nil
			}
		}
		if n == count {
			break
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	switch {
	case answered == 0:
		return &codedError{exitUnreachable, fmt.Errorf("%w: %w", errSilent, lastErr)}
	case direct:
		return &codedError{exitRelayOnly, fmt.Errorf("%s was reached, but not directly", peer)}
	default:
		return nil
	}
}
