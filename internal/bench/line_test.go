//go:build linux

package main

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// fill gives a hop frames of 1500 bytes at a part of its rate for a while, and returns the
// part that arrives, and the longest time under way in the second half.
func fill(h *hop, part float64, d time.Duration) (arrived float64, longest time.Duration) {
	begin := time.Unix(1000, 0)
	gap := time.Duration(1500 / (h.rate * part) * 1e9)
	sent, came := 0, 0
	for now := begin; now.Before(begin.Add(d)); now = now.Add(gap) {
		sent++
		due, ok := h.take(now, 1500)
		if !ok {
			continue
		}
		if came++; now.Sub(begin) > d/2 {
			longest = max(longest, due.Sub(now))
		}
	}
	return float64(came) / float64(sent), longest
}

// A hop carries its rate and no more, keeps what its queue holds, and loses what it is told to.
func TestHop(t *testing.T) {
	const ms = time.Millisecond
	for _, test := range []struct {
		line    line
		part    float64
		arrives float64
		longest time.Duration
	}{
		{line{Mbit: 50, Delay: 40 * ms, Queue: 100 * ms}, 0.9, 1, 41 * ms},
		{line{Mbit: 50, Delay: 40 * ms, Queue: 100 * ms}, 2, 0.5, 141 * ms},
		{line{Mbit: 50, Delay: 40 * ms, Queue: 3 * ms}, 2, 0.5, 44 * ms},
		{line{Mbit: 50, Delay: 40 * ms, Queue: 10 * ms, Police: true}, 2, 0.5, 40 * ms},
		{line{Mbit: 50, Delay: 40 * ms, Queue: 100 * ms, Loss: 0.05}, 0.5, 0.95, 41 * ms},
		{line{Mbit: 50, Delay: 40 * ms, Queue: 100 * ms, Loss: 0.05, Run: 4}, 0.5, 0.95, 41 * ms},
		{line{Mbit: 50, Delay: 40 * ms, Queue: 100 * ms, Model: "Wi-Fi in flight, mild"}, 0.5, 0.98, 41 * ms},
	} {
		arrived, longest := fill(newHop(test.line), test.part, 20*time.Second)
		if math.Abs(arrived-test.arrives) > 0.01 || longest > test.longest {
			t.Errorf("%v at %v of its rate: %.3f arrive after %v at most, want %v and %v", test.line, test.part, arrived, longest, test.arrives, test.longest)
		}
	}
}

// Runs are as long as they are to be.
func TestRuns(t *testing.T) {
	lost := line{Loss: 0.01, Run: 4}.losses()
	run, runs := 0, map[int]int{}
	for range 1_000_000 {
		switch {
		case lost():
			run++
		case run > 0:
			runs[run]++
			run = 0
		}
	}
	if runs[4] < 2000 || runs[1]+runs[2]+runs[3] > 0 {
		t.Errorf("runs by length: %v", runs)
	}
}

// codel leaves a queue alone that becomes empty now and then, and keeps one short that would not.
func TestCoDel(t *testing.T) {
	l := line{Mbit: 50, Queue: time.Second, CoDel: true}
	if arrived, _ := fill(newHop(l), 0.95, 20*time.Second); arrived < 1 {
		t.Errorf("%.4f arrive though nothing waits", arrived)
	}
	if _, longest := fill(newHop(l), 1.03, 20*time.Second); longest > 100*time.Millisecond {
		t.Errorf("frames wait for %v after 10 s at 1.03 of the rate", longest)
	}
	plain := newHop(line{Mbit: 50, Queue: time.Second})
	if _, longest := fill(plain, 1.03, 20*time.Second); longest < 500*time.Millisecond {
		t.Errorf("without codel %v", longest)
	}
}

// Rounds of before count if they are of the same path.
func TestAddRounds(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lossy.json")
	rows := func() []lossyRow {
		var list []lossyRow
		for _, test := range lossyTests() {
			list = append(list, lossyRow{Line: test.String(), Rounds: map[string]map[string][]float64{}})
		}
		return list
	}
	now, lines := rows(), map[string]bool{}
	if err := addRounds(name, now); err != nil {
		t.Fatal("there is no file: ", err)
	}
	for _, row := range now {
		lines[row.Line] = true
	}
	if len(lines) != len(now) {
		t.Errorf("%d paths have %d names", len(now), len(lines))
	}
	now[3].Rounds["nodetun"] = map[string][]float64{"TCP": {1, 2}}
	b, err := json.Marshal(now[3:4])
	if err == nil {
		err = os.WriteFile(name, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	now = rows()
	if err := addRounds(name, now); err != nil || len(now[3].Rounds["nodetun"]["TCP"]) != 2 || len(now[2].Rounds) != 0 {
		t.Errorf("%v; %+v", err, now[2:4])
	}
	if err := os.WriteFile(name, []byte("no JSON"), 0o600); err != nil {
		t.Fatal(err)
	}
	if addRounds(name, now) == nil {
		t.Error("a file without figures is taken")
	}
}
