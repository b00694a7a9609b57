package engine

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nodetun/nodetun/endpoint"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/sshkeys"
	"github.com/nodetun/nodetun/internal/wire"
	"github.com/nodetun/nodetun/magicsock"
)

// session is one QUIC connection with a peer. Its goroutines are owned by run.
type session struct {
	peer *peer
	conn *endpoint.Connection
	// dialler is the node that dialled; replaces says that it had another
	// session up when it began to.
	dialler  identity.NodeID
	replaces bool
	// instance and mtu are those of the peer's hello; mtu is 0 when it names none.
	instance string
	mtu      int
	ends     wire.Ends
	coding   *magicsock.Coding // nil: packets leave as they are

	flows   atomic.Int64 // TCP flows on this connection
	out     chan queued  // datagrams to send, drop when full
	splitID atomic.Uint32
	joiner  wire.Joiner // only readDatagrams uses it
	pings   pings
	guard   guard
	// peerDone: the peer has replaced this session and has no flow on it.
	peerDone atomic.Bool
	messages *outbox // for the control stream
	control  *endpoint.SendStream
	incoming *endpoint.ReceiveStream
	closing  sync.Once
}

// datagramQueue is how many packets a session holds, a burst of a program that sends
// large ones; what does not fit is dropped. So is what has waited for datagramAge: on a
// slow path a full queue would delay all that comes behind it.
const (
	datagramQueue = 2048
	datagramAge   = 250 * time.Millisecond
)

// queued is one datagram in the queue.
type queued struct {
	frame *[]byte
	at    time.Time
}

func newSession(p *peer, conn *endpoint.Connection, dialler identity.NodeID, replaces bool) (*session, error) {
	ends, ok := p.engine.ends(p.id)
	if !ok {
		return nil, fmt.Errorf("no overlay address for %s", p.id.Short())
	}
	return &session{
		peer: p, conn: conn, dialler: dialler, replaces: replaces, ends: ends,
		out: make(chan queued, datagramQueue), messages: newOutbox(),
	}, nil
}

// sendHello opens our control stream.
func (s *session) sendHello(ctx context.Context) error {
	stream, err := s.conn.OpenUniStream(ctx)
	if err != nil {
		return err
	}
	cfg := &s.peer.engine.cfg
	hello := wire.Hello{
		Version: cfg.Version, Instance: hex.EncodeToString(cfg.Instance[:]), Features: s.peer.engine.features(),
		Name: cfg.Name, MTU: cfg.MTU, Replaces: s.replaces, SSHHostKeys: s.hostKeysFor(s.peer.access.Load()),
	}
	frame, err := wire.AppendMessage(wire.AppendKind(nil, wire.StreamControl), wire.TypeHello, hello)
	if err != nil {
		return err
	}
	_ = stream.SetWriteDeadline(deadline(ctx))
	_, err = stream.Write(frame)
	_ = stream.SetWriteDeadline(time.Time{})
	s.control = stream
	return err
}

// readHello takes the peer's control stream and its first message.
func (s *session) readHello(ctx context.Context) error {
	stream, err := s.conn.AcceptUniStream(ctx)
	if err != nil {
		return err
	}
	_ = stream.SetReadDeadline(deadline(ctx))
	defer stream.SetReadDeadline(time.Time{})
	kind, err := wire.ReadKind(stream)
	if err != nil {
		return err
	}
	if kind != wire.StreamControl {
		return fmt.Errorf("%w: the first stream has kind %#x", wire.ErrProtocol, kind)
	}
	t, body, err := wire.ReadMessage(stream, wire.MaxMessage)
	if err != nil {
		return err
	}
	var hello wire.Hello
	if t != wire.TypeHello {
		return fmt.Errorf("%w: message %d before hello", wire.ErrProtocol, t)
	}
	if err := json.Unmarshal(body, &hello); err != nil {
		return fmt.Errorf("%w: hello: %w", wire.ErrProtocol, err)
	}
	if b, err := hex.DecodeString(hello.Instance); err != nil || len(b) != 16 {
		return fmt.Errorf("%w: hello without an instance", wire.ErrProtocol)
	}
	s.instance, s.mtu, s.incoming = hello.Instance, hello.MTU, stream
	if s.dialler == s.peer.id {
		s.replaces = hello.Replaces
	}
	s.peer.setTheirName(identity.Clean(hello.Name, 63))
	s.peer.setHostKeys(hello.SSHHostKeys)
	s.learnFeatures(hello.Features)
	return nil
}

// hostKeysFor are the keys of this host's ssh server for a peer that may reach it.
func (s *session) hostKeysFor(a *access) []string {
	if s.peer.engine.cfg.SSHHostKeys == nil || !a.rules.Allows(protoTCP, sshPort) {
		return nil
	}
	return s.peer.engine.cfg.SSHHostKeys()
}

// setHostKeys takes the keys that the peer vouches for.
func (p *peer) setHostKeys(list []string) {
	keys := sshkeys.ParseAll(list)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hostKeys = keys
}

// hostKeysTime is how long a peer is waited for that is asked for its keys.
const hostKeysTime = 3 * time.Second

// HostKeys returns the ssh host keys that a node vouches for now, or did on its last
// connection.
func (e *Engine) HostKeys(ctx context.Context, id identity.NodeID) []string {
	p := e.peer(id)
	if p == nil {
		return nil
	}
	if s := p.current.Load(); s != nil && !s.ended() {
		ctx, cancel := context.WithTimeout(ctx, hostKeysTime)
		defer cancel()
		if err := s.askRules(ctx); err != nil { // an older version does not know the question
			e.log.Debug("a peer does not tell its rules", "peer", id, "err", err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.hostKeys)
}

// askRules asks the peer what it lets this host do.
func (s *session) askRules(ctx context.Context) error {
	body, err := s.ask(ctx, wire.TypeRules)
	if err != nil {
		return err
	}
	return s.takeRules(body)
}

// takeRules takes what the peer lets this host do.
func (s *session) takeRules(body []byte) error {
	var r wire.Rules
	if err := json.Unmarshal(body, &r); err != nil {
		return err
	}
	s.peer.setTheirRules(r.Rules)
	if len(r.SSHHostKeys) > 0 {
		s.peer.setHostKeys(r.SSHHostKeys)
	}
	return nil
}

func (p *peer) setTheirName(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.theyName = name
}

// deadline is ctx's, or none.
func deadline(ctx context.Context) time.Time {
	at, _ := ctx.Deadline()
	return at
}

// run serves the session until its connection ends.
func (s *session) run() {
	ctx := s.conn.Context()
	var tasks sync.WaitGroup
	tasks.Go(func() { s.readDatagrams(ctx) })
	tasks.Go(func() { s.writeDatagrams(ctx) })
	tasks.Go(func() { s.acceptStreams(ctx, &tasks) })
	tasks.Go(func() { s.acceptUniStreams(ctx) })
	tasks.Go(func() { s.writeMessages(ctx) })
	tasks.Go(s.readMessages)
	tasks.Go(func() { s.keepOpen(ctx) })
	if s.coding != nil {
		tasks.Go(func() { s.speedUp(ctx) })
	}
	<-ctx.Done()
	stats := s.conn.Stats()
	s.peer.engine.log.Debug("session ended", "peer", s.peer.id, "sent", stats.PacketsSent, "received", stats.PacketsReceived,
		"lost", stats.PacketsLost, "window", stats.CongestionWindow, "rtt", s.conn.RTT())
	s.peer.left(s, s.conn.CloseCause())
	tasks.Wait()
}

// keepOpen asks the peer while a TCP flow is open: three times in the idle timeout of this
// side, since silence ends sessions, and in the time of patience for flows that wait for it.
// The side with the shorter timeout, which counts for both, sees to it for both.
func (s *session) keepOpen(ctx context.Context) {
	patience := s.peer.engine.cfg.FlowTimeout
	pause := min(s.peer.engine.cfg.Endpoint.IdleTimeout(), patience) / 3
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for quiet := (silence{}); ; {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		next := pause
		if s.flows.Load() > 0 {
			asked := time.Now()
			lasted := quiet.note(asked, s.pingOnce(ctx, min(keepOpenWait, pause)) == nil, time.Now())
			if lasted >= patience {
				s.giveUpFlows(lasted)
			}
			if lasted > 0 {
				next = pause / 4
			}
		} else {
			quiet = silence{}
		}
		timer.Reset(next)
	}
}

// silence is that of a peer that is asked now and then.
type silence struct{ since time.Time } // the first question of those without an answer

// note takes a question and whether it was answered, and returns for how long none was.
func (s *silence) note(asked time.Time, answered bool, now time.Time) time.Duration {
	switch {
	case answered:
		s.since = time.Time{}
		return 0
	case s.since.IsZero():
		s.since = asked
	}
	return now.Sub(s.since)
}

// giveUpFlows ends the flows of this session: nothing has been heard of the peer for so long
// that they would only pile up. Their programs see a reset; those that set a keep-alive
// of their own have heard before.
func (s *session) giveUpFlows(lasted time.Duration) {
	p := s.peer
	p.mu.Lock()
	n := 0
	for f := range p.flows {
		if f.session == s {
			f.abort()
			n++
		}
	}
	p.mu.Unlock()
	if n > 0 {
		p.engine.log.Info("TCP connections are given up: the peer has not answered", "peer", p.id, "for", lasted.Round(time.Second), "connections", n)
	}
}

// keepOpenWait bounds the wait for the answer.
const keepOpenWait = 10 * time.Second

// ended reports whether the connection is over.
func (s *session) ended() bool { return s.conn.Context().Err() != nil }

// close ends the connection; the first reason counts.
func (s *session) close(code wire.CloseCode, reason string) {
	s.closing.Do(func() { s.conn.Close(uint64(code), reason) })
}

// goodbye ends the connection for a reason that concerns the peer.
func (s *session) goodbye(code wire.CloseCode, reason string) { s.close(code, reason) }

// violation closes the connection because the peer broke the protocol.
func (s *session) violation(err error) {
	s.close(wire.CloseProtocol, identity.Clean(err.Error(), 120))
	if p := s.peer; p.faults.allow(time.Now(), denialLogInterval) { // it may come back at once
		p.engine.log.Warn("a peer broke the protocol", "peer", p.id, "err", identity.Clean(err.Error(), 200))
	}
}

// retire closes a replaced session once the winner has proved that it works
// and neither side has a flow on this one. Each side says so by a goodbye: what
// has left here may still wait for its reader there, and closing would lose it.
func (s *session) retire(winner *session) {
	for winner.pingOnce(winner.conn.Context(), time.Second) != nil {
		if winner.ended() || s.ended() {
			return
		}
	}
	tick := time.NewTicker(retireTick)
	defer tick.Stop()
	for said := false; ; {
		if s.flows.Load() == 0 {
			if !said {
				s.send(wire.TypeGoodbye, wire.Goodbye{Reason: goodbyeReplaced})
				said = true
			}
			if s.peerDone.Load() {
				break
			}
		}
		select {
		case <-s.conn.Context().Done():
			return
		case <-winner.conn.Context().Done():
			return
		case <-tick.C:
		}
	}
	if !winner.ended() {
		s.close(wire.CloseReplaced, "replaced")
	}
}

// How a replaced session ends.
const (
	retireTick      = 250 * time.Millisecond
	goodbyeReplaced = "replaced"
)

// send queues a control message, in the place of the last one of its type if that
// waits still. It does not wait.
func (s *session) send(t wire.MessageType, v any) {
	frame, err := wire.AppendMessage(nil, t, v)
	if err != nil {
		s.peer.engine.log.Error("control message not sent", "type", t, "err", err)
		return
	}
	s.messages.put(t, frame)
}

// tellRules sends what the peer may do here.
func (s *session) tellRules(a *access) { s.send(wire.TypeRules, s.rulesFor(a)) }

func (s *session) rulesFor(a *access) wire.Rules {
	r := wire.Rules{Rules: a.rules.Strings(), SSHHostKeys: s.hostKeysFor(a)}
	if !a.until.IsZero() {
		r.Until = a.until.UTC().Format(time.RFC3339)
	}
	return r
}

func (s *session) writeMessages(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.messages.kick:
		}
		for frame := s.messages.take(); frame != nil; frame = s.messages.take() {
			if _, err := s.control.Write(frame); err != nil {
				return
			}
		}
	}
}

// readMessages serves the peer's control stream. Types that are not known are
// skipped, so that newer nodes may say more.
func (s *session) readMessages() {
	for {
		t, body, err := wire.ReadMessage(s.incoming, wire.MaxMessage)
		if err != nil {
			if _, closed := endpoint.Cause(err); !closed && !s.ended() {
				s.violation(fmt.Errorf("%w: control stream: %w", wire.ErrProtocol, err))
			}
			return
		}
		s.peer.saw(time.Now())
		if err := s.takeMessage(t, body); err != nil {
			s.violation(fmt.Errorf("%w: message %d: %w", wire.ErrProtocol, t, err))
			return
		}
	}
}

// takeMessage handles one control message.
func (s *session) takeMessage(t wire.MessageType, body []byte) error {
	switch t {
	case wire.TypeRules:
		return s.takeRules(body)
	case wire.TypeFacts:
		if _, err := s.peer.takeFacts(body); err != nil {
			return err
		}
	case wire.TypeGoodbye:
		var g wire.Goodbye
		if err := json.Unmarshal(body, &g); err != nil {
			return err
		}
		if g.Reason == goodbyeReplaced {
			s.peerDone.Store(true)
		}
	}
	return nil
}

// setTheirRules remembers what the peer lets this host do, for status only.
func (p *peer) setTheirRules(list []string) {
	cleaned := make([]string, 0, min(len(list), 64))
	for _, rule := range list[:min(len(list), 64)] {
		cleaned = append(cleaned, identity.Clean(rule, 32))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.theirs = cleaned
}

// acceptUniStreams refuses every stream but the first control stream, which
// the handshake took.
func (s *session) acceptUniStreams(ctx context.Context) {
	for {
		stream, err := s.conn.AcceptUniStream(ctx)
		if err != nil {
			return
		}
		stream.CancelRead(wire.CodeUnknownStream)
	}
}

// Limits of streams that have not said what they are (S29).
const (
	headerTimeout = 3 * time.Second
	maxUnnamed    = 64 // in a session
)

// acceptStreams serves the streams that the peer opens. While too many have not said what
// they are, others wait: for an honest peer that is no time at all.
func (s *session) acceptStreams(ctx context.Context, tasks *sync.WaitGroup) {
	unnamed := make(chan struct{}, maxUnnamed)
	for {
		stream, err := s.conn.AcceptStream(ctx)
		if err != nil {
			return
		}
		unnamed <- struct{}{} // for headerTimeout at most
		tasks.Go(func() { s.serveStream(stream, func() { <-unnamed }) })
	}
}

// serveStream calls named once it knows what the stream is, or that it never will.
func (s *session) serveStream(stream *endpoint.Stream, named func()) {
	_ = stream.SetReadDeadline(time.Now().Add(headerTimeout))
	kind, err := wire.ReadKind(stream)
	var header wire.FlowHeader
	if err == nil && kind == wire.StreamFlow {
		header, err = wire.ReadFlowHeader(stream)
	}
	if err == nil {
		s.peer.saw(time.Now())
	}
	switch {
	case err != nil:
		refuseStream(stream)
		named()
	case kind == wire.StreamFlow:
		_ = stream.SetReadDeadline(time.Time{})
		named()
		s.acceptFlow(stream, header)
	case kind == wire.StreamRequest:
		defer named()
		s.serveRequest(stream)
	default:
		refuseStream(stream)
		named()
	}
}

// refuseStream ends a stream of a kind that is not known.
func refuseStream(stream *endpoint.Stream) {
	stream.CancelRead(wire.CodeUnknownStream)
	stream.CancelWrite(wire.CodeUnknownStream)
}

// maxRequest bounds the message of a request stream.
const maxRequest = 1024

// serveRequest answers a request: one message up, one back.
func (s *session) serveRequest(stream *endpoint.Stream) {
	t, body, err := wire.ReadMessage(stream, maxRequest)
	if err != nil {
		refuseStream(stream)
		return
	}
	answer, err := s.answerRequest(t, bytes.TrimSpace(body))
	if err != nil {
		refuseStream(stream)
		return
	}
	frame, err := wire.AppendMessage(nil, t, answer)
	if err != nil {
		refuseStream(stream)
		return
	}
	_, _ = stream.Write(frame)
	_ = stream.Close()
	_, _ = io.CopyN(io.Discard, stream, 1) // the FIN
	stream.CancelRead(wire.CodeUnknownStream)
}
