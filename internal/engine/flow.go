package engine

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nodetun/nodetun/endpoint"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/outage"
	"github.com/nodetun/nodetun/internal/wire"
	"github.com/nodetun/nodetun/netstack"
)

// Time limits of opening a flow.
const (
	openTimeout = 35 * time.Second // how long the opener waits for the answer
	dialForPeer = 30 * time.Second // how long the acceptor tries to connect
)

// flow is one TCP connection of the overlay: netstack on one side, a QUIC
// stream on the other. Two goroutines copy, one each way.
type flow struct {
	peer   *peer
	local  *netstack.Flow
	stream *endpoint.Stream
	// session carries the stream; the peer's mu guards it.
	session *session
	// inbound: the peer opened it, to this port of ours.
	inbound bool
	port    uint16
	// cancel ends an opening that is under way; aborted is closed by abort.
	cancel  context.CancelFunc
	once    sync.Once
	aborted chan struct{}
	// sent and received are closed when the copy to the peer, from the peer, has ended.
	sent, received chan struct{}
	// moved is when bytes last went over the flow, either way, in Unix nanoseconds.
	moved atomic.Int64
}

func newFlow(p *peer, inbound bool, port uint16, cancel context.CancelFunc) *flow {
	return &flow{
		peer: p, inbound: inbound, port: port, cancel: cancel,
		aborted: make(chan struct{}), sent: make(chan struct{}), received: make(chan struct{}),
	}
}

// start gives the flow its two ends.
func (f *flow) start(local *netstack.Flow, stream *endpoint.Stream, s *session) {
	f.peer.mu.Lock()
	defer f.peer.mu.Unlock()
	f.local, f.stream, f.session = local, stream, s
}

// abort ends the flow at once, in whatever state it is; it does not wait.
func (f *flow) abort() {
	f.once.Do(func() {
		close(f.aborted)
		f.cancel()
	})
}

// acceptFromHost takes a TCP connection that a program of this host opens into
// the overlay. It runs on a goroutine of its own, the SYN still unanswered.
func (e *Engine) acceptFromHost(pending *netstack.Pending) {
	id, known := e.cfg.Table.Lookup(pending.Dst().Addr())
	p := e.peer(id)
	if !known || p == nil || !e.isSelf(pending.Src().Addr()) {
		e.count.drop(dropNoPeer)
		pending.Unreachable(netstack.NoRoute)
		return
	}
	ctx, cancel := context.WithTimeout(e.life, openTimeout)
	defer cancel()
	f := newFlow(p, false, pending.Dst().Port(), cancel)
	if !p.addFlow(f) {
		pending.Reset()
		return
	}
	defer p.removeFlow(f)
	e.spawn(func() { // the caller gives up: so do we
		select {
		case <-pending.Done():
			cancel()
		case <-ctx.Done():
		}
	})
	stream, s, answer := p.openFlow(ctx, pending.Src(), pending.Dst())
	if s != nil {
		defer s.flows.Add(-1)
	}
	if answer.Status != wire.StatusOK {
		e.refuseHost(pending, p, answer)
		return
	}
	local, err := pending.Accept()
	if err != nil {
		resetStream(stream)
		return
	}
	f.start(local, stream, s)
	f.carry(nil)
}

// refuseHost ends the handshake of a program of this host with what the peer
// answered.
func (e *Engine) refuseHost(pending *netstack.Pending, p *peer, answer wire.Answer) {
	e.log.Debug("flow refused", "peer", p.id, "status", answer.Status, "reason", answer.Reason)
	switch answer.Status {
	case wire.StatusHostUnreachable, wire.StatusTimeout:
		pending.Unreachable(netstack.HostUnreachable)
	case wire.StatusNetUnreachable:
		pending.Unreachable(netstack.NoRoute)
	default:
		pending.Reset()
	}
}

// openFlow asks the peer for a connection. A session that it returns counts
// the flow, which the caller takes off again. A connection to the peer that dies
// before the answer came is tried once more on the next one: the node has
// restarted, or the connection was replaced.
func (p *peer) openFlow(ctx context.Context, src, dst netip.AddrPort) (*endpoint.Stream, *session, wire.Answer) {
	header := wire.FlowHeader{V4: dst.Addr().Is4(), SrcPort: src.Port(), DstPort: dst.Port()}
	for try := 0; ; try++ {
		s, err := p.connect(ctx)
		if err != nil {
			return nil, nil, p.connectAnswer(err)
		}
		s.flows.Add(1)
		stream, answer, err := s.request(ctx, header)
		if err == nil {
			return stream, s, answer
		}
		s.flows.Add(-1)
		if try == 0 && s.replaceable() && ctx.Err() == nil {
			continue
		}
		return nil, nil, wire.Answer{Status: wire.StatusTimeout, Reason: err.Error()}
	}
}

// connectAnswer tells a program of this host why there is no connection: a
// refusal is one, silence is not.
func (p *peer) connectAnswer(err error) wire.Answer {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refused || errors.Is(err, errDenied) {
		return wire.Answer{Status: wire.StatusDenied, Reason: p.lastErr}
	}
	return wire.Answer{Status: wire.StatusHostUnreachable, Reason: err.Error()}
}

// replaceable reports whether the session ended in a way that says nothing
// about the peer: a reset, a replacement, a shutdown.
func (s *session) replaceable() bool {
	if !s.ended() {
		return false
	}
	closed, ok := endpoint.Cause(s.conn.CloseCause())
	if !ok {
		return false
	}
	if closed.Kind == endpoint.Reset {
		return true
	}
	code := wire.CloseCode(closed.Code)
	return closed.Kind == endpoint.Application && (code == wire.CloseReplaced || code == wire.CloseShuttingDown)
}

// request opens a stream for a flow and waits for the answer. The stream is
// returned only with StatusOK.
func (s *session) request(ctx context.Context, header wire.FlowHeader) (*endpoint.Stream, wire.Answer, error) {
	stream, err := s.conn.OpenStream(ctx)
	if err != nil {
		return nil, wire.Answer{}, err
	}
	stop := context.AfterFunc(ctx, func() { resetStream(stream) })
	defer stop()
	if _, err := stream.Write(wire.AppendFlowHeader(nil, header)); err != nil {
		resetStream(stream)
		return nil, wire.Answer{}, err
	}
	answer, err := wire.ReadAnswer(stream)
	if err == nil {
		s.peer.saw(time.Now())
	}
	if err != nil || answer.Status != wire.StatusOK {
		resetStream(stream)
		return nil, answer, err
	}
	if !stop() {
		return nil, wire.Answer{}, ctx.Err()
	}
	return stream, answer, nil
}

// resetStream ends both directions of a stream as a TCP reset does.
func resetStream(stream *endpoint.Stream) {
	stream.CancelWrite(wire.CodeFlowReset)
	stream.CancelRead(wire.CodeFlowReset)
}

// acceptFlow serves a flow that the peer opens: it checks it, connects to the
// program on this host from the peer's overlay address, and answers.
func (s *session) acceptFlow(stream *endpoint.Stream, header wire.FlowHeader) {
	s.flows.Add(1)
	defer s.flows.Add(-1)
	src, dst, answer := s.checkFlow(header)
	if answer.Status != wire.StatusOK {
		s.answerFlow(stream, answer)
		return
	}
	// The caller's giving up resets the stream, which ends its context.
	ctx, cancel := context.WithTimeout(stream.Context(), dialForPeer)
	defer cancel()
	f := newFlow(s.peer, true, header.DstPort, cancel)
	if !s.peer.addFlow(f) {
		s.answerFlow(stream, s.peer.tooMany(f))
		return
	}
	defer s.peer.removeFlow(f)
	local, err := s.peer.engine.stack.Dial(ctx, src, dst)
	if err != nil {
		s.answerFlow(stream, dialAnswer(err))
		return
	}
	f.start(local, stream, s)
	f.carry(wire.AppendAnswer(nil, wire.Answer{Status: wire.StatusOK}))
}

// tooMany says why addFlow did not take an inbound flow.
func (p *peer) tooMany(f *flow) wire.Answer {
	if !p.access.Load().rules.Allows(protoTCP, f.port) {
		return wire.Answer{Status: wire.StatusDenied, Reason: ruleText(protoTCP, f.port) + " is not allowed"}
	}
	return wire.Answer{Status: wire.StatusTooManyFlows, Reason: "too many flows"}
}

// answerFlow refuses a flow.
func (s *session) answerFlow(stream *endpoint.Stream, answer wire.Answer) {
	_, _ = stream.Write(wire.AppendAnswer(nil, answer))
	_ = stream.Close()
	stream.CancelRead(wire.CodeFlowReset)
}

// checkFlow is S13 and the rules, for a flow: from exactly the sender's overlay
// address to exactly ours.
func (s *session) checkFlow(h wire.FlowHeader) (src, dst netip.AddrPort, answer wire.Answer) {
	e, local, remote := s.peer.engine, s.ends.Local6, s.ends.Remote6
	if h.V4 {
		local, remote = s.ends.Local4, s.ends.Remote4
	}
	switch {
	case !local.IsValid() || !remote.IsValid():
		return src, dst, wire.Answer{Status: wire.StatusNetUnreachable, Reason: "no IPv4 on this side"}
	case h.Src.IsValid() && h.Src != remote:
		e.count.drop(dropSource)
		return src, dst, wire.Answer{Status: wire.StatusDenied, Reason: "not your address"}
	case h.Dst.IsValid() && h.Dst != local:
		e.count.drop(dropDestination)
		return src, dst, wire.Answer{Status: wire.StatusDenied, Reason: "not an address of this host"}
	case !s.peer.access.Load().rules.Allows(protoTCP, h.DstPort):
		e.count.drop(dropRules)
		rule := ruleText(protoTCP, h.DstPort)
		s.peer.logDenied(rule, time.Now())
		return src, dst, wire.Answer{Status: wire.StatusDenied, Reason: rule + " is not allowed"}
	}
	return netip.AddrPortFrom(remote, h.SrcPort), netip.AddrPortFrom(local, h.DstPort), wire.Answer{}
}

// dialAnswer turns the error of a connect on this host into the peer's answer.
func dialAnswer(err error) wire.Answer {
	status := wire.StatusOther
	switch {
	case errors.Is(err, netstack.ErrRefused):
		status = wire.StatusRefused
	case errors.Is(err, netstack.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		status = wire.StatusTimeout
	case errors.Is(err, netstack.ErrHostUnreachable):
		status = wire.StatusHostUnreachable
	case errors.Is(err, netstack.ErrNetUnreachable):
		status = wire.StatusNetUnreachable
	}
	return wire.Answer{Status: status, Reason: identity.Clean(err.Error(), 120)}
}

// carry writes the answer to the peer, if any, and moves bytes both ways until
// both directions have ended, or one of them broke, or the flow was aborted.
func (f *flow) carry(answer []byte) {
	probes, ends := &f.peer.engine.probes, endsOf(f.local)
	f.moved.Store(time.Now().UnixNano())
	probes.flows.Store(ends, f)
	defer probes.flows.CompareAndDelete(ends, f)
	over := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() { f.watch(over) })
	if _, err := f.stream.Write(answer); err != nil {
		f.reset()
	} else {
		f.copyBoth()
	}
	close(over)
	watch.Wait()
	if f.stopped() {
		f.hangUp()
	}
	f.local.Close()
}

// watch ends the copies when the flow is aborted or the engine ends, and when one of the two
// programs has reset the connection, or that to the peer is over: a copy that has ended does
// not notice it, nor does one that waits at the other side.
func (f *flow) watch(over <-chan struct{}) {
	stopped := f.stream.Context().Done() // when FIN was sent too
	gone := f.session.conn.Context().Done()
	for {
		select {
		case <-f.aborted:
			f.reset()
		case <-f.peer.engine.life.Done():
			f.reset()
		case <-f.local.Broken():
			if !f.wait(f.sent) {
				continue
			}
			f.stream.CancelRead(wire.CodeFlowReset)
		case <-gone:
			gone = nil
			f.local.Hurry(f.patience())
			continue // with FIN it has all, and may take its time
		case <-stopped:
			stopped = nil
			if !f.stopped() {
				continue
			}
			f.local.Hurry(f.patience())
			if !f.wait(f.received) {
				continue
			}
			f.hangUp()
		case <-over:
		}
		return
	}
}

// patience is that with a program on this host that reads nothing.
func (f *flow) patience() time.Duration { return f.peer.engine.cfg.DrainPatience }

// wait waits for the end of a copy, and reports whether the flow goes on until then.
func (f *flow) wait(copied <-chan struct{}) bool {
	select {
	case <-copied:
		return true
	case <-f.aborted:
	case <-f.peer.engine.life.Done():
	}
	return false
}

// stopped reports whether the far side takes nothing more: the program there has reset.
func (f *flow) stopped() bool { return endpoint.Stopped(context.Cause(f.stream.Context())) }

// broken reports whether the program on this host has reset, or its connection broke.
func (f *flow) broken() bool {
	select {
	case <-f.local.Broken():
		return true
	default:
		return false
	}
}

// hangUp resets the connection of the program on this host, once it has all that came.
func (f *flow) hangUp() {
	f.local.Drain(f.patience())
	f.local.Abort()
}

// copyBoth runs the two copies, unless the flow was aborted before.
func (f *flow) copyBoth() {
	select {
	case <-f.aborted:
		f.reset()
		return
	default:
	}
	var copies sync.WaitGroup
	copies.Go(func() {
		defer close(f.sent)
		f.hostToPeer()
	})
	copies.Go(func() {
		defer close(f.received)
		f.peerToHost()
	})
	copies.Wait()
}

// reset ends both halves as a TCP reset does; the copies then end by
// themselves.
func (f *flow) reset() {
	f.local.Abort()
	resetStream(f.stream)
}

// hostToPeer copies what the program on this host sends. What it had sent before it
// reset the connection arrives before the reset does, as on a cable.
func (f *flow) hostToPeer() {
	e, ends := f.peer.engine, endsOf(f.local)
	sent := both{&f.peer.tx, &e.count.txStreams}
	s := outage.NewSpill(f.stream, f.local, moved{f, sent}, &e.budget)
	s.Full = func() { e.standing.Watch(ends) }
	s.Over = func() { e.tryAgain(ends) }
	defer e.standing.Forget(ends)
	defer s.Drop()
	fast := &speed{budget: &e.budget, buffers: f.local.SetReceiveBuffer}
	switch read, write := copyGrowing(s, fromHost{f.local}, moved{f, sent}, fast); {
	case endpoint.Stopped(write):
		// Their program takes no more: what it said comes by the other copy, then carry ends ours.
	case read != nil || write != nil:
		f.stream.SetReliableBoundary()
		f.reset()
	default:
		_ = f.stream.Close() // FIN
	}
}

// peerToHost copies what the peer sends. What came before its reset is handed on
// before the program on this host is told of it.
func (f *flow) peerToHost() {
	fast := &speed{budget: &f.peer.engine.budget, buffers: f.local.SetSendBuffer}
	switch read, write := copyGrowing(f.local, newFromPeer(f.stream), moved{f, arrived{f.peer}}, fast); {
	case errors.Is(write, netstack.ErrTimeout) && !f.broken():
		// It did not take what came before the end.
		f.reset()
	case write != nil:
		// The program on this host has reset: the other copy sends on what it had said.
		f.stream.CancelRead(wire.CodeFlowReset)
	case read != nil && f.broken():
		// The program on this host has reset, as watch has noticed.
	case read != nil:
		f.hangUp()
		f.reset()
	default:
		_ = f.local.CloseWrite() // FIN
	}
}

// arrived counts what came from a peer on a stream.
type arrived struct{ peer *peer }

func (a arrived) Add(n uint64) uint64 {
	a.peer.saw(time.Now())
	return both{&a.peer.rx, &a.peer.engine.count.rxStreams}.Add(n)
}

// moved notes when bytes went over a flow.
type moved struct {
	flow *flow
	counter
}

func (m moved) Add(n uint64) uint64 {
	m.flow.moved.Store(time.Now().UnixNano())
	return m.counter.Add(n)
}

// counter adds up bytes; *atomic.Uint64 is one.
type counter = outage.Counter
