package engine

import (
	"fmt"
	"testing"

	"github.com/nodetun/nodetun/internal/wire"
)

func TestOutboxKeepsTheNewest(t *testing.T) {
	o := newOutbox()
	for i := range 1000 { // a long outage
		o.put(wire.TypeFacts, fmt.Appendf(nil, "facts %d", i))
		o.put(wire.TypeRules, fmt.Appendf(nil, "rules %d", i))
	}
	for _, want := range []string{"facts 999", "rules 999", ""} {
		if got := string(o.take()); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if len(o.kick) != 1 {
		t.Error("the writer is not woken")
	}
}

// However many messages are due while nobody takes them, the session stays, and its
// peer learns the last state.
func TestControlMessagesNeverEndASession(t *testing.T) {
	a, b, p := connected(t, "all")
	s := p.live()[0]
	for i := range 5000 {
		s.send(wire.TypeRules, wire.Rules{Rules: []string{fmt.Sprintf("tcp/%d", i+1)}})
	}
	if s.ended() {
		t.Fatalf("the session ended: %v", s.conn.CloseCause())
	}
	await(t, "the last rules", func() bool {
		theirs := b.engine.peer(a.id).snapshot().TheirRules
		return len(theirs) == 1 && theirs[0] == "tcp/5000"
	})
}

// What arrives on streams is a sign of life.
func TestStreamsAreASignOfLife(t *testing.T) {
	a, b, p := connected(t, "all")
	flow, err := a.dial(t, b, echoPort, false)
	if err != nil {
		t.Fatal(err)
	}
	defer flow.Close()
	for _, q := range []*peer{p, b.engine.peer(a.id)} {
		await(t, "nothing but the flow", func() bool { return q.lastSeen.Swap(1) == 1 })
	}
	echo(t, flow, []byte("hello"))
	for _, q := range []*peer{p, b.engine.peer(a.id)} {
		if q.lastSeen.Load() == 1 {
			t.Errorf("%s was not seen", q.id)
		}
	}
}
