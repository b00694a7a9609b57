//go:build unix

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/nodetun/nodetun/internal/daemon"
)

// readyFD is, in a detached node, the pipe that is closed when it is up.
const readyFD = "NODETUN_READY_FD"

// detachUp runs this command line once more in the background, without
// --detach, and waits until it is up or has failed.
func (a *app) detachUp(cmd *cobra.Command) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := daemon.MakeStateDir(a.stateDir); err != nil {
		return err
	}
	said, err := openLog(a.logPath())
	if err != nil {
		return err
	}
	log, from := said.file, said.size
	defer log.Close()
	ready, readyChild, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	child := exec.Command(self, slices.DeleteFunc(slices.Clone(os.Args[1:]), isDetach)...)
	child.Stdout, child.Stderr = log, log
	child.ExtraFiles = []*os.File{readyChild} // descriptor 3
	child.Env = append(os.Environ(), readyFD+"=3")
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = child.Start()
	readyChild.Close()
	if err != nil {
		return err
	}
	report, _ := io.ReadAll(io.LimitReader(ready, 1<<16))
	if len(report) > 0 {
		_, err := cmd.OutOrStdout().Write(report)
		return errors.Join(err, child.Process.Release())
	}
	_ = child.Wait() // its exit code is taken below
	_, _ = io.Copy(cmd.ErrOrStderr(), io.NewSectionReader(log, from, 1<<16))
	return &codedError{child.ProcessState.ExitCode(), fmt.Errorf("%w: the node did not come up", errSilent)}
}

// isDetach reports whether an argument is the flag that the child must not see.
func isDetach(arg string) bool { return arg == "--detach" || strings.HasPrefix(arg, "--detach=") }

// tellParent tells the process that started this one in the background what
// there is to show.
func tellParent(report string) {
	pipe := os.NewFile(3, "ready")
	if pipe == nil {
		return
	}
	_, _ = io.WriteString(pipe, report)
	_ = pipe.Close()
}

// detached reports whether this process runs in the background.
func detached() bool { return os.Getenv(readyFD) != "" }
