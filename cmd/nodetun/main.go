// Command nodetun makes this machine reachable by its key. See README.md and
// docs/cli.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// version is set by the build (scripts/build).
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:]))
}

// run executes one command line and returns its exit code.
func run(ctx context.Context, args []string) int {
	a := &app{}
	root := newRoot(a)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil && !a.began {
		err = usage(err)
	}
	if err != nil && !errors.Is(err, errSilent) {
		fmt.Fprintf(os.Stderr, "nodetun: %s\n", shown(oneLine(err)))
	}
	return exitCode(err)
}

// outliveReaders has a process that goes on for long live without whoever reads its
// output: writes then fail, instead of ending it.
func outliveReaders() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }

// oneLine words an error that may be several.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
