//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	if err := command(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func command(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "serve":
		return serve()
	case len(args) == 4 && args[0] == "carry":
		var l line
		if err := json.Unmarshal([]byte(args[3]), &l); err != nil {
			return err
		}
		return relayFrames(args[1], args[2], l)
	case len(args) == 2 && args[0] == "plain":
		return plain(args[1])
	case len(args) == 4 && args[0] == "ask":
		count, err := strconv.Atoi(args[3])
		if err != nil {
			return err
		}
		return ask(args[1], args[2], count)
	}
	return compare(args)
}

// options are the flags.
type options struct {
	nodetun, wireguard string
	rounds, seconds    int
	only, lines, json  string
	long, lossy        bool
}

// base is the contender that the others are compared with.
const base = "wireguard-go"

func compare(args []string) error {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&o.nodetun, "nodetun", "bin/nodetun", "the program")
	flags.StringVar(&o.wireguard, "wireguard", "bin/wireguard-go", "wireguard-go")
	flags.IntVar(&o.rounds, "rounds", 3, "how often everything is measured")
	flags.IntVar(&o.seconds, "seconds", 3, "length of each run of iperf3")
	flags.StringVar(&o.only, "only", "", "contenders, by comma (cable, wireguard-go, nodetun, relay)")
	flags.BoolVar(&o.long, "long", false, "over a path of 50 Mbit/s, 80 ms and 1 % loss; measures one flow, with bbr and with cubic")
	flags.BoolVar(&o.lossy, "lossy", false, "over many paths that lose packets, and what it leaves a neighbour there; takes two hours")
	flags.StringVar(&o.lines, "lines", "", "with -lossy: only paths whose row matches this regular expression")
	flags.StringVar(&o.json, "json", "", "file for all figures; with -lossy, those that it has count, too")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if os.Getuid() != 0 {
		return errors.New("needs root for network namespaces (try: sudo ./scripts/bench)")
	}
	dir, err := os.MkdirTemp("", "nodetun-bench-")
	if err != nil {
		return err
	}
	w := &world{dir: dir}
	if o.long {
		w.line = &longLine
	}
	defer os.RemoveAll(dir)
	defer w.close()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	done := make(chan error, 1)
	go func() {
		if o.lossy {
			done <- w.lossy(o)
		} else {
			done <- w.compare(o)
		}
	}()
	select {
	case err := <-done:
		return err
	case <-stop:
		return errors.New("interrupted")
	}
}

// contenders sets all of them up, or those of o.only.
func (w *world) contenders(o options) ([]*contender, error) {
	var list []*contender
	for _, one := range []struct {
		name string
		make func() (*contender, error)
	}{
		{"cable", w.bare},
		{base, func() (*contender, error) { return w.wireguard(o.wireguard) }},
		{"nodetun", func() (*contender, error) { return w.nodetun(o.nodetun, "nodetun", "", false) }},
		{"relay", func() (*contender, error) { return w.nodetun(o.nodetun, "relay", "", true) }},
	} {
		if o.only != "" && !slices.Contains(strings.Split(o.only, ","), one.name) {
			continue
		}
		c, err := one.make()
		if err != nil {
			return nil, fmt.Errorf("set up %s: %w", one.name, err)
		}
		for _, argv := range [][]string{{"iperf3", "-s"}, {self(), "serve"}} {
			if _, err := w.start(c.b, nil, argv...); err != nil {
				return nil, err
			}
		}
		fmt.Fprintf(os.Stderr, "%s is up\n", one.name)
		list = append(list, c)
	}
	return list, nil
}

func (w *world) compare(o options) error {
	list, err := w.contenders(o)
	if err != nil {
		return err
	}
	rounds := make(map[string][]figures)
	var names []string
	for _, c := range list {
		names = append(names, c.name)
	}
	for n := range o.rounds {
		for _, c := range list {
			measure := c.measure
			if o.long {
				measure = c.measureLong
			}
			f, err := measure(o.seconds)
			if err != nil {
				return err
			}
			rounds[c.name] = append(rounds[c.name], f)
			fmt.Fprintf(os.Stderr, "round %d of %d: %s\n", n+1, o.rounds, c.name)
		}
	}
	rows := collect(names, rounds)
	writeTable(os.Stdout, rows, base)
	if o.json == "" {
		return nil
	}
	b, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(o.json, append(b, '\n'), 0o644)
}
