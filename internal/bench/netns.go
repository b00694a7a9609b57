//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// ns is the name of a network namespace.
type ns string

// world is what has to be undone at the end.
type world struct {
	dir  string // for files
	line *line  // between the hosts; nil: they are side by side
	undo []func()
}

// close undoes everything, the last first.
func (w *world) close() {
	for i := len(w.undo) - 1; i >= 0; i-- {
		w.undo[i]()
	}
	w.undo = nil
}

// namespace makes one whose name no other process has.
func (w *world) namespace(name string) (ns, error) {
	n := ns(fmt.Sprintf("ntb%d-%s", os.Getpid(), name))
	if _, err := run(time.Minute, "ip", "netns", "add", string(n)); err != nil {
		return "", err
	}
	w.undo = append(w.undo, func() { _, _ = run(time.Minute, "ip", "netns", "del", string(n)) })
	_, err := n.run("ip", "link", "set", "lo", "up")
	return n, err
}

// dev is the interface of each host.
const dev = "cable"

// cable joins two hosts.
func (w *world) cable(a ns, aNet string, b ns, bNet string) error {
	join := directly
	if w.line != nil {
		join = w.byLine
	}
	if err := join(a, b); err != nil {
		return err
	}
	for _, end := range []struct {
		n    ns
		nets string
	}{{a, aNet}, {b, bNet}} {
		if _, err := end.n.run("sysctl", "-qw", "net.ipv6.conf."+dev+".accept_dad=0"); err != nil {
			return err
		}
		for net := range strings.FieldsSeq(end.nets) {
			if _, err := end.n.run("ip", "addr", "add", net, "dev", dev); err != nil {
				return err
			}
		}
		if _, err := end.n.run("ip", "link", "set", dev, "up"); err != nil {
			return err
		}
	}
	return nil
}

// directly puts a pair of interfaces between two hosts.
func directly(a, b ns) error { return veth(a, dev, b, dev) }

func veth(a ns, aDev string, b ns, bDev string) error {
	_, err := run(time.Minute, "ip", "link", "add", aDev, "netns", string(a), "type", "veth", "peer", "name", bDev, "netns", string(b))
	return err
}

// byLine puts a namespace between two hosts that carries their frames.
func (w *world) byLine(a, b ns) error {
	middle, err := w.namespace(strings.TrimPrefix(string(a), fmt.Sprintf("ntb%d-", os.Getpid())) + "m")
	if err != nil {
		return err
	}
	for _, end := range []struct {
		n   ns
		dev string
	}{{a, "left"}, {b, "right"}} {
		if err := veth(end.n, dev, middle, end.dev); err != nil {
			return err
		}
		for _, argv := range [][]string{{"sysctl", "-qw", "net.ipv6.conf." + end.dev + ".disable_ipv6=1"}, {self(), "plain", end.dev}, {"ip", "link", "set", end.dev, "up"}} {
			if _, err := middle.run(argv...); err != nil {
				return err
			}
		}
		if _, err := end.n.run(self(), "plain", dev); err != nil {
			return err
		}
	}
	spec, err := json.Marshal(w.line)
	if err != nil {
		return err
	}
	_, err = w.start(middle, nil, self(), "carry", "left", "right", string(spec))
	return err
}

// run runs a program and returns its standard output.
func run(limit time.Duration, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("%s: %w: %s%s", strings.Join(argv, " "), err, out, stderr.Bytes())
	}
	return string(out), nil
}

// run runs a program inside the namespace, for a minute at most.
func (n ns) run(argv ...string) (string, error) { return n.runFor(time.Minute, argv...) }

func (n ns) runFor(limit time.Duration, argv ...string) (string, error) {
	return run(limit, append([]string{"ip", "netns", "exec", string(n)}, argv...)...)
}

// start starts a program inside the namespace that runs until the end. What it
// says goes to a file.
func (w *world) start(n ns, env []string, argv ...string) (*os.Process, error) {
	log, err := os.CreateTemp(w.dir, "log-")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("ip", append([]string{"netns", "exec", string(n)}, argv...)...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	w.undo = append(w.undo, func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		timer := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		timer.Stop()
		_ = log.Close()
	})
	return cmd.Process, nil
}

// errLate says that something did not happen in time.
var errLate = errors.New("not in time")

// await asks until the answer is nil.
func await(limit time.Duration, what string, ask func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := ask()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: %w: %w", what, errLate, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
