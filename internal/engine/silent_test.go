package engine

import (
	"errors"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/nodetun/nodetun/endpoint"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/netstack"
)

// A TCP flow over which nothing goes keeps its session, whichever side has the shorter
// timeout; a session without one ends.
func TestSilentFlowKeepsItsSession(t *testing.T) {
	const idle = time.Second
	for name, which := range map[string][2]time.Duration{"both": {idle, idle}, "the dialler": {idle, 0}, "the other": {0, idle}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start := func(idle time.Duration, pool string) *node {
				return startNodeWith(t, nil, nil, netip.MustParsePrefix(pool), func(e *endpoint.Config, _ *Config) { e.IdleTimeout = idle })
			}
			a, b := start(which[0], "100.100.0.0/16"), start(which[1], "198.18.0.0/16")
			b.knowAt(t, a.id, identity.NodeAddr{}, "all")
			a.know(t, b, "all")
			flow, err := a.dial(t, b, echoPort, false)
			if err != nil {
				t.Fatal(err)
			}
			for _, silence := range []time.Duration{0, 5 * idle / 2} {
				time.Sleep(silence) // it is what is tested
				if _, err := flow.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(flow, make([]byte, 1)); err != nil {
					t.Fatalf("after %v of silence: %v", silence, err)
				}
			}
			flow.Close()
			await(t, "the session without a flow ends", func() bool { return a.state().State != StateConnected })
		})
	}
}

// Who leaks connections to one port is refused in the end, and said so; ssh and other ports
// have places left, and the user hears which port it is.
func TestLeakedConnections(t *testing.T) {
	a, b := meet(t, "all")
	if _, err := a.engine.Ping(t.Context(), b.id); err != nil {
		t.Fatal(err)
	}
	p := a.engine.peer(b.id)
	add := func(port uint16) bool { return p.addFlow(newFlow(p, false, port, func() {})) }
	n := 0
	for add(7100) {
		n++
	}
	if n != maxTCP-reservedTCP || !add(sshPort) || !add(443) {
		t.Errorf("%d connections to the leaking port", n)
	}
	for port := uint16(10000); add(port); port++ {
		n++
	}
	if n+2 != maxTCP || add(sshPort) {
		t.Errorf("%d connections in all", n+2)
	}
	if s := a.state(); s.Crowd != 7100 || s.Limit != maxTCP-reservedTCP || s.Flows != maxTCP {
		t.Errorf("%+v", s)
	}
	if dropped := a.engine.Dropped()["too_many_flows"]; dropped != 3 {
		t.Errorf("%d were counted", dropped)
	}
	if _, err := a.dial(t, b, echoPort, false); !errors.Is(err, netstack.ErrRefused) {
		t.Errorf("one more: %v", err)
	}
	p.mu.Lock()
	flows := make([]*flow, 0, len(p.flows))
	for f := range p.flows {
		flows = append(flows, f)
	}
	p.mu.Unlock()
	for _, f := range flows {
		p.removeFlow(f)
		p.removeFlow(f) // counts once
	}
	if len(p.byPort) != 0 {
		t.Errorf("left over: %v", p.byPort)
	}
}
