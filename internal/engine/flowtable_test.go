package engine

import (
	"sync/atomic"
	"testing"
	"time"
)

func netstackCarrier() carrier { return carrierNetstack }
func datagramCarrier() carrier { return carrierDatagram }

type pinholeEvent = struct {
	at   time.Duration
	send bool // else an answer, which must pass
}

// everyMinute is one question and answers to it.
func everyMinute(until time.Duration) []pinholeEvent {
	list := []pinholeEvent{{0, true}}
	for at := time.Duration(0); at <= until; at += time.Minute {
		list = append(list, pinholeEvent{at, false})
	}
	return list
}

func TestPinholeTimes(t *testing.T) {
	type event = pinholeEvent
	key := flowKey{proto: protoUDP, local: 5000, remote: 53}
	cases := []struct {
		name   string
		before []event
		at     time.Duration
		want   bool
	}{
		{"never sent", nil, 0, false},
		{"one way, in time", []event{{0, true}}, 30 * time.Second, true},
		{"one way, too late", []event{{0, true}}, 31 * time.Second, false},
		{"two way, in time", []event{{0, true}, {time.Second, false}}, 180 * time.Second, true},
		{"two way, too late", []event{{0, true}, {time.Second, false}}, 182 * time.Second, false},
		{"answers renew", []event{{0, true}, {time.Second, false}, {179 * time.Second, false}}, 359 * time.Second, true},
		{"answers alone renew for an hour", everyMinute(time.Hour), time.Hour + time.Second, false},
		{"our packets renew", []event{{0, true}, {time.Second, false}, {100 * time.Second, true}}, 279 * time.Second, true},
	}
	start := time.Unix(1_000_000, 0)
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			var table flowTable
			for _, e := range tc.before {
				if e.send {
					table.outbound(key, 1, start.Add(e.at), false, datagramCarrier)
				} else if !table.answers(key, 1, start.Add(e.at)) {
					t.Fatalf("the answer at %v did not pass", e.at)
				}
			}
			if got := table.answers(key, 1, start.Add(tc.at)); got != tc.want {
				t.Errorf("answers = %v, want %v", got, tc.want)
			}
		})
	}
}

// S16: an entry judged under another generation of the rules is void.
func TestFlowGeneration(t *testing.T) {
	var table flowTable
	now := time.Unix(1, 0)
	key := flowKey{proto: protoUDP, local: 1, remote: 2}
	table.outbound(key, 1, now, false, datagramCarrier)
	if table.answers(key, 2, now) {
		t.Error("an answer passed on an entry of older rules")
	}
	if got := table.outbound(key, 2, now, false, netstackCarrier); got != carrierNetstack {
		t.Errorf("carrier = %v: the flow was not decided again", got)
	}
}

// S16: answers to a flow that the peer opened under a rule are no pinhole that
// outlives the rule, however long this host goes on answering.
func TestAnswersAreNoPinhole(t *testing.T) {
	var table flowTable
	now := time.Unix(1, 0)
	key := flowKey{proto: protoUDP, local: 53, remote: 5000}
	table.inbound(key, 1, now)
	table.outbound(key, 1, now, false, datagramCarrier)
	for range 100 {
		now = now.Add(time.Second)
		if table.answers(key, 2, now) {
			t.Fatal("the peer's packet passes without its rule")
		}
		table.outbound(key, 2, now, false, datagramCarrier) // a program that goes on sending
	}
	now = now.Add(pinholeTwoWay + time.Second)
	table.outbound(key, 2, now, false, datagramCarrier)
	if !table.answers(key, 2, now) {
		t.Error("a flow that this host opened later is not answered")
	}
}

// A peer that sends from every port costs this host no flow of its own.
func TestInboundNotesAreBounded(t *testing.T) {
	var table flowTable
	now := time.Unix(1, 0)
	own := flowKey{proto: protoUDP, local: 9, remote: 9}
	table.outbound(own, 1, now, false, datagramCarrier)
	for i := range 2 * maxFlows {
		table.inbound(flowKey{proto: protoUDP, local: 53, remote: uint16(i)}, 1, now)
	}
	if table.size() > maxFlows || !table.answers(own, 1, now) {
		t.Errorf("%d entries, own flow answered: %v", table.size(), table.answers(own, 1, now))
	}
}

func TestFlowCarrierStays(t *testing.T) {
	var table flowTable
	now := time.Unix(1, 0)
	key := flowKey{proto: protoTCP, local: 1, remote: 22}
	table.outbound(key, 1, now, false, netstackCarrier)
	if got := table.outbound(key, 1, now, true, datagramCarrier); got != carrierNetstack {
		t.Errorf("carrier = %v, want the one decided first", got)
	}
	later := now.Add(tcpEntryClosed + time.Second)
	if got := table.outbound(key, 1, later, false, datagramCarrier); got != carrierDatagram {
		t.Errorf("carrier = %v: the closed flow still holds its entry", got)
	}
}

// S16: at most 4096 pinholes a peer, the one silent longest goes first.
func TestFlowTableBounded(t *testing.T) {
	var table flowTable
	now := time.Unix(1, 0)
	for i := range maxFlows + 100 {
		table.outbound(flowKey{proto: protoUDP, local: uint16(i), remote: uint16(i >> 16)}, 1, now.Add(time.Duration(i)), false, datagramCarrier)
	}
	if table.size() != maxFlows {
		t.Errorf("size = %d, want %d", table.size(), maxFlows)
	}
	if table.answers(flowKey{proto: protoUDP, local: 0}, 1, now) {
		t.Error("the oldest entry survived")
	}
	if !table.answers(flowKey{proto: protoUDP, local: maxFlows + 99}, 1, now) {
		t.Error("the newest entry is gone")
	}
}

// A stream that was asked for once and then only received stays, whatever number of
// questions fills the table; and so does a TCP connection that is silent.
func TestQuestionsEvictNoTalk(t *testing.T) {
	var table flowTable
	var evicted atomic.Uint64
	table.evicted = &evicted
	now := time.Unix(1, 0)
	ssh := flowKey{proto: protoTCP, local: 50000, remote: 22}
	table.outbound(ssh, 1, now, false, netstackCarrier)
	stream := flowKey{proto: protoUDP, local: 7, remote: 7}
	table.outbound(stream, 1, now, false, datagramCarrier)
	for i := range 3 * maxFlows {
		now = now.Add(3 * time.Millisecond)
		if !table.answers(stream, 1, now) {
			t.Fatalf("the stream is gone after %d questions", i)
		}
		question := flowKey{proto: protoUDP, local: uint16(i), remote: 53}
		table.outbound(question, 1, now, false, datagramCarrier)
		if !table.answers(question, 1, now) {
			t.Fatalf("question %d is not answered", i)
		}
	}
	if !table.answers(ssh, 1, now) || table.size() > maxFlows || evicted.Load() == 0 {
		t.Errorf("ssh %v, %d entries, %d evicted", table.answers(ssh, 1, now), table.size(), evicted.Load())
	}
}

// Of talks the one goes in which neither side sent for longest.
func TestLongestSilentTalkGoes(t *testing.T) {
	var table flowTable
	now := time.Unix(1, 0)
	key := func(i int) flowKey { return flowKey{proto: protoUDP, local: uint16(i), remote: 9} }
	for i := range maxFlows {
		for range 2 {
			table.outbound(key(i), 1, now, false, datagramCarrier)
			table.answers(key(i), 1, now)
		}
		now = now.Add(time.Millisecond)
	}
	if !table.answers(key(0), 1, now) { // it is the youngest now
		t.Fatal("the first talk is gone already")
	}
	table.outbound(key(maxFlows), 1, now, false, datagramCarrier)
	if table.answers(key(1), 1, now) || !table.answers(key(0), 1, now) || table.size() != maxFlows {
		t.Errorf("second %v, first %v, %d entries", table.answers(key(1), 1, now), table.answers(key(0), 1, now), table.size())
	}
}

// L7: whatever this host does with the table, a flow that the peer opened is known as such,
// so that answers to it are no pinhole.
func TestTheirsHaveRoom(t *testing.T) {
	var table flowTable
	now := time.Unix(1, 0)
	for i := range maxFlows {
		table.outbound(flowKey{proto: protoUDP, local: uint16(i), remote: 53}, 1, now, false, datagramCarrier)
	}
	for i := range 2 * maxTheirs {
		theirs := flowKey{proto: protoUDP, v4: true, local: 53, remote: uint16(i)}
		table.inbound(theirs, 1, now)
		table.outbound(theirs, 1, now, false, datagramCarrier)
		if table.answers(theirs, 1, now) {
			t.Fatalf("our answer to flow %d of the peer made a pinhole", i)
		}
	}
	if n := table.oldest[classTheirs].n; n > maxTheirs || table.size() > maxFlows {
		t.Errorf("%d of theirs, %d in all", n, table.size())
	}
}

// Evicting costs the same in a full table of living flows.
func BenchmarkFlowTableFull(b *testing.B) {
	var table flowTable
	now := time.Unix(1, 0)
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		key := flowKey{proto: protoUDP, local: uint16(i), remote: uint16(i >> 16)}
		table.outbound(key, 1, now, false, datagramCarrier)
		i++
	}
}

func BenchmarkFlowTableOutbound(b *testing.B) {
	var table flowTable
	now := time.Unix(1, 0)
	key := flowKey{proto: protoUDP, local: 1, remote: 2}
	b.ReportAllocs()
	for b.Loop() {
		table.outbound(key, 1, now, false, datagramCarrier)
	}
}

func TestFlowTableOutboundDoesNotAllocate(t *testing.T) {
	var table flowTable
	now := time.Unix(1, 0)
	key := flowKey{proto: protoUDP, local: 1, remote: 2}
	if n := testing.AllocsPerRun(100, func() { table.outbound(key, 1, now, false, datagramCarrier) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}
