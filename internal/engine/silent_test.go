package engine

import (
	"errors"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/nodetun/nodetun/endpoint"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/natlab"
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

// Only questions without an answer count, from the first one on.
func TestSilenceOfPeer(t *testing.T) {
	at := func(minutes int) time.Time { return time.Unix(0, 0).Add(time.Duration(minutes) * time.Minute) }
	var quiet silence
	for _, step := range []struct {
		asked, now int
		answered   bool
		want       time.Duration
	}{
		{40, 40, true, 0},
		{80, 81, false, time.Minute},
		{90, 91, false, 11 * time.Minute},
		{100, 100, true, 0},
		{140, 141, false, time.Minute},
		{260, 261, false, 121 * time.Minute},
	} {
		if got := quiet.note(at(step.asked), step.answered, at(step.now)); got != step.want {
			t.Errorf("asked at %d: %v, want %v", step.asked, got, step.want)
		}
	}
}

// A flow goes on when its peer was away for less than the flow timeout, and ends on both
// sides after more.
func TestFlowsOfSilentPeerEnd(t *testing.T) {
	t.Parallel()
	const patience = 3 * time.Second
	lab := natlab.New(t)
	router := lab.Internet.NAT(natlab.Config{Mapping: natlab.EndpointIndependent, Filtering: natlab.EndpointIndependent, Timeout: time.Hour})
	start := func(h *natlab.Host, pool string) *node {
		return startNodeWith(t, nil, nil, netip.MustParsePrefix(pool), func(e *endpoint.Config, c *Config) {
			e.Socket.Underlay, e.Socket.Bind4, e.Socket.Bind6 = h.Underlay(), netip.AddrPort{}, netip.AddrPort{}
			c.FlowTimeout = patience
		})
	}
	outside := lab.Internet.Host()
	a, b := start(router.Inside.Host(), "100.100.0.0/16"), start(outside, "198.18.0.0/16")
	v4, _ := b.end.LocalAddrs()
	b.knowAt(t, a.id, identity.NodeAddr{}, "all")
	a.knowAt(t, b.id, identity.NodeAddr{ID: b.id, Direct: []netip.AddrPort{netip.AddrPortFrom(outside.Addr(), v4.Port())}}, "all")
	flow, err := a.dial(t, b, echoPort, false)
	if err != nil {
		t.Fatal(err)
	}
	defer flow.Close()
	for _, at := range []struct {
		quiet   time.Duration
		blocked bool
	}{{2 * patience, false}, {patience / 2, true}, {2 * patience, false}} {
		router.Block(at.blocked)
		time.Sleep(at.quiet) // it is what is tested
		router.Block(false)
		if _, err := flow.Write([]byte("x")); err != nil {
			t.Fatalf("after %v: %v", at.quiet, err)
		}
		if _, err := io.ReadFull(flow, make([]byte, 1)); err != nil {
			t.Fatalf("after %v: %v", at.quiet, err)
		}
	}
	router.Block(true)
	cut := time.Now()
	if _, err := flow.Read(make([]byte, 1)); !errors.Is(err, netstack.ErrReset) {
		t.Errorf("the program hears %v", err)
	}
	if took := time.Since(cut); took < patience {
		t.Errorf("the flow was given up after %v", took)
	}
	await(t, "no flow is left", func() bool { return a.state().Flows+b.state().Flows == 0 })
}

// A flow ends with the connection to its peer, though the program on this host reads nothing
// of what came.
func TestFlowsEndWithTheirConnection(t *testing.T) {
	t.Parallel()
	const patience = 200 * time.Millisecond
	start := func(pool string) *node {
		return startNodeWith(t, nil, nil, netip.MustParsePrefix(pool), func(_ *endpoint.Config, c *Config) { c.DrainPatience = patience })
	}
	a, b := start("100.100.0.0/16"), start("198.18.0.0/16")
	b.knowAt(t, a.id, identity.NodeAddr{}, "all")
	a.know(t, b, "all")
	flow, err := a.dial(t, b, deafPort, false)
	if err != nil {
		t.Fatal(err)
	}
	defer flow.Close()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = flow.Write(make([]byte, 64<<20)) // more than all buffers hold
	}()
	await(t, "the program's buffers are full", func() bool {
		before := b.state().Rx
		time.Sleep(patience) // a window that is closed shows in nothing else
		return before > 0 && before == b.state().Rx
	})
	a.stop()
	<-sent
	await(t, "no flow is left", func() bool { return b.state().Flows == 0 })
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
