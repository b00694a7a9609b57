package outage

import (
	"testing"
	"time"
)

func TestRing(t *testing.T) {
	var r ring
	if len(r.packets()) != 0 {
		t.Error("not empty at first")
	}
	batch := make([]byte, 20*100+7)
	for i := range batch {
		batch[i] = byte(i / 100)
	}
	r.add(batch, 100)
	got := r.packets()
	if len(got) != ringPackets || len(got[7]) != 7 || got[0][0] != 13 || got[7][0] != 20 {
		t.Errorf("%d packets, first %d, last %d of %d bytes", len(got), got[0][0], got[7][0], len(got[7]))
	}
	r.add([]byte("new"), 3)
	if got := r.packets(); string(got[7]) != "new" || got[0][0] != 14 {
		t.Errorf("after one more: first %d, last %q", got[0][0], got[7])
	}
	r.add(make([]byte, ringSize+1), ringSize+1) // too large to keep
	if got := r.packets(); string(got[7]) != "new" {
		t.Errorf("last %q", got[7])
	}
}

// Two connections share a node. When it is heard again, answers to the bulk of one
// do not displace the probe that the other waits on.
func TestWatchHoldsProbes(t *testing.T) {
	var w Watch
	now := time.Now()
	send := func(packet string) { w.Sent(now, []byte(packet), len(packet)) }
	w.Heard(now)
	send("probe")
	now = now.Add(2 * Silence)
	w.Heard(now)
	for range 3 * ringPackets {
		send("answer")
	}
	missed := func() (probes, all int) {
		list := w.Missed(now)
		for _, b := range list {
			if string(b) == "probe" {
				probes++
			}
		}
		return probes, len(list)
	}
	if probes, all := missed(); probes != 1 || all != 1+ringPackets {
		t.Errorf("%d packets are sent again, %d of them probes", all, probes)
	}
	if probes, all := missed(); probes != 0 || all != ringPackets {
		t.Errorf("then %d packets are sent again, %d of them probes", all, probes)
	}
}

// The turn changes after something that was sent on our own account stayed unanswered
// for long, and only then.
func TestWatchTurns(t *testing.T) {
	var w Watch
	now := time.Now()
	turn := 0
	send := func() { w.Sent(now, []byte("something"), 9) }
	hear := func(after time.Duration, want bool) {
		t.Helper()
		now = now.Add(after)
		got, over := w.Heard(now)
		if over != want || over != (got != turn) {
			t.Errorf("turn %d after %d, over %v, want %v", got, turn, over, want)
		}
		turn = got
	}
	hear(0, false)
	send() // an answer to what came
	hear(time.Hour, false)
	now = now.Add(time.Minute)
	send()
	hear(20*time.Millisecond, false)
	now = now.Add(time.Second)
	send()
	now = now.Add(unanswered / 2)
	send()
	hear(unanswered/2, true)
	hear(time.Millisecond, false)
	now = now.Add(time.Second)
	send()
	hear(10*time.Minute, true)
	if turn != 0 {
		t.Error("a third turn")
	}
}
