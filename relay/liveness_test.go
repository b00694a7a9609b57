package relay

import (
	"testing"
	"time"
)

func TestLivenessOfClient(t *testing.T) {
	now := time.Unix(1000, 0)
	var l Liveness
	expect := func(received time.Time, want LivenessAction) time.Time {
		t.Helper()
		got, next := l.Next(now, received, now)
		if got != want {
			t.Fatalf("at %v: %v, want %v", now, got, want)
		}
		return next
	}
	expect(time.Time{}, LivePing) // at once
	now = expect(time.Time{}, LiveNothing)
	if now != time.Unix(1004, 0) {
		t.Fatalf("pong awaited until %v", now)
	}
	expect(time.Unix(1003, 0), LiveNothing) // something came
	now = expect(time.Unix(1003, 0), LiveNothing)
	if now != time.Unix(1028, 0) {
		t.Fatalf("next ping at %v", now)
	}
	expect(time.Unix(1027, 0), LiveNothing) // traffic puts it off
	now = time.Unix(1052, 0)
	expect(time.Unix(1027, 0), LivePing)
	now = time.Unix(1055, 0)
	expect(time.Unix(1027, 0), LiveNothing)
	now = time.Unix(1056, 0)
	expect(time.Unix(1027, 0), LiveDead)
}

func TestLivenessPingNow(t *testing.T) {
	now := time.Unix(1000, 0)
	var l Liveness
	l.Next(now, time.Time{}, now)
	if got, _ := l.Next(now, now, now); got != LiveNothing {
		t.Fatal(got)
	}
	l.PingNow()
	if got, _ := l.Next(now, now, now); got != LivePing {
		t.Fatal(got)
	}
}

func TestLivenessOfServer(t *testing.T) {
	start := time.Unix(1000, 0)
	l := Liveness{Server: true}
	action, next := l.Next(start, time.Time{}, start)
	if action != LiveNothing || next.Sub(start) < PingInterval+time.Second || next.Sub(start) > PingInterval+5*time.Second {
		t.Fatalf("%v, first ping after %v", action, next.Sub(start))
	}
	// A client that sends all the time and is sent nothing: iroh-net 0.28 hangs
	// up after 120 s without a frame.
	for s := range 59 {
		now := start.Add(time.Duration(s) * time.Second)
		if action, _ := l.Next(now, now, time.Time{}); action != LiveNothing {
			t.Fatalf("after %d s: %v", s, action)
		}
	}
	now := start.Add(60 * time.Second)
	if action, _ := l.Next(now, now, time.Time{}); action != LiveKeepAlive {
		t.Fatal(action)
	}
	if action, next := l.Next(now, now, now); action != LiveNothing || !next.After(now) {
		t.Fatal(action, next)
	}
}
