//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// test is what is measured of a path.
type test struct {
	line
	what string
	// with are the contenders.
	with []rival
	// measure returns figures of one of them.
	measure func(c *contender, r rival, seconds int) (figures, error)
}

// rival is a contender and the congestion control of its hosts.
type rival struct{ name, tunnel, control, settings string }

// The rivals. Behind nodetun the control of the hosts does not matter: their TCP ends there.
var (
	wgCubic = rival{name: "wireguard-go, cubic", tunnel: base, control: "cubic"}
	wgBBR   = rival{name: "wireguard-go, bbr", tunnel: base, control: "bbr"}
	without = rival{name: "nodetun, fec off", tunnel: "nodetun", control: "cubic", settings: "fec = \"off\"\n"}
	with    = rival{name: "nodetun", tunnel: "nodetun", control: "cubic"}
)

func (t test) String() string { return t.line.String() + ": " + t.what }

// lossyTests are the paths of the flag -lossy.
func lossyTests() []test {
	const queue = 100 * time.Millisecond
	var list []test
	add := func(l line, what string, measure func(*contender, rival, int) (figures, error), with ...rival) {
		list = append(list, test{l, what, with, measure})
	}
	losses := []line{{}, {Loss: 0.001}, {Loss: 0.005}, {Loss: 0.01}, {Loss: 0.02}, {Loss: 0.05}, {Loss: 0.01, Run: 4}}
	for _, rate := range []float64{50, 200} {
		for _, ms := range []time.Duration{80, 20} {
			for _, l := range losses {
				l.Mbit, l.Delay, l.Queue = rate, ms*time.Millisecond/2, queue
				add(l, "one flow", flow, wgCubic, wgBBR, with)
			}
		}
	}
	for name := range models {
		add(line{Mbit: 50, Delay: 40 * time.Millisecond, Queue: queue, Model: name}, "one flow", flow, wgCubic, wgBBR, with)
	}
	for _, loss := range []float64{0.01, 0.05} {
		add(line{Mbit: 50, Delay: 40 * time.Millisecond, Queue: queue, Loss: loss}, "a call", calls, wgCubic, without, with)
	}
	for _, l := range []line{{Queue: 3 * time.Millisecond}, {Queue: 30 * time.Millisecond}, {Queue: queue}, {Queue: 10 * time.Millisecond, Police: true}, {Queue: queue, CoDel: true}} {
		l.Mbit, l.Delay = 50, 40*time.Millisecond
		add(l, "a neighbour", neighbour, wgCubic, wgBBR, without, with)
	}
	return list
}

// flow measures one flow from its start, and pings beside it.
func flow(c *contender, r rival, seconds int) (figures, error) {
	f, done := figures{}, make(chan error, 1)
	go func() {
		result, err := c.iperf(c.v4, seconds, "-C", r.control)
		f["TCP"] = result.gbits * 1000
		done <- err
	}()
	time.Sleep(2 * time.Second) // it is at speed, or should be
	times, _ := c.ping((seconds-3)*20, 50*time.Millisecond)
	if err := <-done; err != nil {
		return nil, err
	}
	if len(times) > 0 {
		f["ping p50"], f["ping p99"] = milli(percentile(times, 50)), milli(percentile(times, 99))
	}
	return f, nil
}

// calls measures what is lost of a stream of datagrams.
func calls(c *contender, _ rival, seconds int) (figures, error) {
	r, err := c.iperf(c.v4, seconds, "-u", "-b", "5M", "-l", "1200")
	return figures{"UDP lost": r.lost}, err
}

// neighbour measures a flow alone, and then beside a plain one of cubic on the same line.
func neighbour(c *contender, r rival, seconds int) (figures, error) {
	f := figures{}
	alone, err := c.iperf(c.v4, seconds, "-C", r.control)
	if err != nil {
		return nil, err
	}
	f["alone"] = alone.gbits * 1000
	other, done := 0.0, make(chan error, 1)
	go func() {
		result, err := c.iperf(outside4+"2", seconds, "-C", "cubic", "-p", neighbourPort)
		other = result.gbits * 1000
		done <- err
	}()
	own, err := c.iperf(c.v4, seconds, "-C", r.control)
	if otherErr := <-done; err == nil {
		err = otherErr
	}
	f["beside a neighbour"], f["the neighbour"] = own.gbits*1000, other
	return f, err
}

const neighbourPort = "5202"

// lossyRow is what all rounds of one path gave.
type lossyRow struct {
	Line   string                          `json:"line"`
	Rounds map[string]map[string][]float64 `json:"rounds"` // by rival and figure
}

// addRounds adds the rounds that a file of before has of the same paths; there need be none.
func addRounds(name string, rows []lossyRow) error {
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) || name == "" {
		return nil
	}
	var before []lossyRow
	if err == nil {
		err = json.Unmarshal(b, &before)
	}
	if err != nil {
		return fmt.Errorf("figures of before: %w", err)
	}
	for i, row := range rows {
		for _, old := range before {
			if old.Line == row.Line && old.Rounds != nil {
				rows[i].Rounds = old.Rounds
			}
		}
	}
	return nil
}

// lossy measures all paths. Every rival of every round is set up anew: a tunnel remembers.
func (w *world) lossy(o options) error {
	which, err := regexp.Compile(o.lines)
	if err != nil {
		return err
	}
	var tests []test
	rows := []lossyRow{}
	for _, t := range lossyTests() {
		if which.MatchString(t.String()) {
			tests = append(tests, t)
			rows = append(rows, lossyRow{Line: t.String(), Rounds: map[string]map[string][]float64{}})
		}
	}
	if len(tests) == 0 {
		return fmt.Errorf("no path matches %q", o.lines)
	}
	if err := addRounds(o.json, rows); err != nil {
		return err
	}
	for n := range o.rounds {
		for i, t := range tests {
			for _, r := range t.with {
				if o.only != "" && !slices.Contains(strings.Split(o.only, ","), r.tunnel) {
					continue
				}
				f, err := w.once(o, t, r)
				if err != nil {
					fmt.Fprintf(os.Stderr, "%s: %s: %v\n", t, r.name, err)
					continue
				}
				if rows[i].Rounds[r.name] == nil {
					rows[i].Rounds[r.name] = map[string][]float64{}
				}
				for name, v := range f {
					rows[i].Rounds[r.name][name] = append(rows[i].Rounds[r.name][name], v)
				}
				fmt.Fprintf(os.Stderr, "round %d of %d: %s: %s: %v\n", n+1, o.rounds, t, r.name, f)
			}
		}
		writeLossy(os.Stdout, rows)
		if o.json != "" {
			b, err := json.MarshalIndent(rows, "", "  ")
			if err != nil {
				return err
			}
			if err := os.WriteFile(o.json, append(b, '\n'), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// once sets a rival up on a line of its own, measures it and takes it down.
func (w *world) once(o options, t test, r rival) (figures, error) {
	own := &world{dir: w.dir, line: &t.line}
	defer own.close()
	var c *contender
	var err error
	if r.tunnel == base {
		c, err = own.wireguard(o.wireguard)
	} else {
		c, err = own.nodetun(o.nodetun, r.tunnel, r.settings, false)
	}
	if err != nil {
		return nil, err
	}
	for _, port := range []string{"5201", neighbourPort} {
		if _, err := own.start(c.b, nil, "iperf3", "-s", "-p", port); err != nil {
			return nil, err
		}
	}
	time.Sleep(calm)
	return t.measure(c, r, o.seconds)
}

// calm is how long a tunnel is left alone after its start: a node looks around when interfaces
// come up, and its first pings may be lost.
const calm = 3 * time.Second

// lossyFigures are all figures in the order of the table.
var lossyFigures = []string{"TCP", "ping p50", "ping p99", "UDP lost", "alone", "beside a neighbour", "the neighbour"}

// writeLossy writes Markdown: medians by path and rival.
func writeLossy(w *os.File, rows []lossyRow) {
	rivals := []string{wgCubic.name, wgBBR.name, without.name, with.name}
	fmt.Fprintf(w, "| path | figure | %s |\n|%s\n", strings.Join(rivals, " | "), strings.Repeat("---|", len(rivals)+2))
	for _, row := range rows {
		for _, name := range lossyFigures {
			cells, any := []string{row.Line, name}, false
			for _, r := range rivals {
				if list := row.Rounds[r][name]; len(list) > 0 {
					cells, any = append(cells, strconv.FormatFloat(median(list), 'f', 1, 64)), true
				} else {
					cells = append(cells, "–")
				}
			}
			if any {
				fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
			}
		}
	}
}
