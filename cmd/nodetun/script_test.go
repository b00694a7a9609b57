package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"nodetun": func() { os.Exit(run(context.Background(), os.Args[1:])) },
	})
}

// TestScripts runs testdata/script: the command line as users and scripts meet
// it. In them
//
//	exits CODE ARGS…
//
// runs nodetun with files of the script's own and wants that exit code.
// Commands of a running node are tested in internal/e2e.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"exits": scriptExits},
		RequireExplicitExec: true,
	})
}

func scriptExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: exits CODE ARGS…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	argv := append(args[1:len(args):len(args)], "--state-dir", ts.MkAbs("state"), "--socket", ts.MkAbs("run/nodetun.sock"))
	if len(args) < 2 || args[1] != "relay" && args[1] != "discovery" { // its --config is another file
		argv = append(argv, "--config", ts.MkAbs("nodetun.toml"))
	}
	got := 0
	var exit *exec.ExitError
	if err := ts.Exec("nodetun", argv...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("nodetun: %v", err)
	}
	if got != want {
		ts.Fatalf("nodetun %q: exit code %d, want %d\n%s%s", args[1:], got, want, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	}
}
