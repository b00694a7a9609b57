package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nodetun/nodetun/endpoint"
	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/wire"
)

// dialTimeout bounds one attempt to reach a peer, hello included.
const dialTimeout = 5 * time.Second

// pauseLocked is how long the next dial has to wait.
func (p *peer) pauseLocked(now time.Time) time.Duration {
	return max(0, p.turn.Sub(now), p.engine.dialer.Pause(p.id))
}

// attempt is one dial that several callers may wait for.
type attempt struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when sess and err are set
	once   sync.Once
	sess   *session
	err    error
}

func (a *attempt) finish(s *session, err error) {
	a.once.Do(func() {
		a.sess, a.err = s, err
		close(a.done)
	})
}

// errDenied says that this host's own rules refuse the peer.
var errDenied = errors.New("denied by this host's own rules")

// connect returns a session with the peer that answers, dialling if need be. A
// dial that ran already and fails is tried once more: the world may have
// changed since it began.
func (p *peer) connect(ctx context.Context) (*session, error) {
	for tries := 0; ; tries++ {
		if !p.allowed() {
			return nil, errDenied
		}
		if s := p.current.Load(); s != nil && !s.ended() && p.answering() {
			return s, nil
		}
		a, joined := p.dialInBackground()
		select {
		case <-a.done:
			if a.err == nil || !joined || tries > 0 {
				return a.sess, a.err
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// dialInBackground joins the dial that runs, or starts one.
func (p *peer) dialInBackground() (a *attempt, joined bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.attempt != nil {
		return p.attempt, true
	}
	ctx, cancel := context.WithTimeout(p.engine.life, p.pauseLocked(time.Now())+dialTimeout)
	a = &attempt{cancel: cancel, done: make(chan struct{})}
	if !p.allowed() {
		cancel()
		a.finish(nil, errDenied)
		return a, false
	}
	p.attempt = a
	turn := p.turn
	started := p.engine.spawn(func() {
		defer cancel()
		p.dial(ctx, a, turn)
	})
	if !started {
		cancel()
		p.attempt = nil
		a.finish(nil, context.Canceled)
	}
	return a, false
}

// dial runs one attempt to its end, when it is its turn.
func (p *peer) dial(ctx context.Context, a *attempt, turn time.Time) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Until(turn)):
	}
	s, err := p.open(ctx)
	if err == nil {
		p.adopt(s)
		s = p.current.Load() // perhaps the other of two
	}
	p.mu.Lock()
	p.attempt = nil
	waiting := p.waiting
	lost := err != nil && p.current.Load() == nil
	if lost {
		p.waiting = nil
	}
	p.mu.Unlock()
	if err != nil {
		p.dialFailed(err)
	}
	if s == nil && err == nil {
		err = errors.New("the connection ended at once")
	}
	a.finish(s, err)
	if lost {
		p.reject(waiting)
	}
}

// open dials the peer and exchanges hellos.
func (p *peer) open(ctx context.Context) (*session, error) {
	old := p.current.Load()
	replaces := old != nil && !old.ended()
	p.mu.Lock()
	addr := p.addr
	p.mu.Unlock()
	addr.ID = p.id
	conn, err := p.engine.dialer.Dial(ctx, addr, wire.ALPN)
	if err != nil {
		return nil, err
	}
	s, err := p.handshake(ctx, conn, p.engine.cfg.Endpoint.NodeID(), replaces)
	if err != nil {
		p.engine.dialer.Failed(p.id)
		return nil, closeFailed(conn, err)
	}
	return s, nil
}

// accept takes a connection that a node dialled. Those that are no peers are
// refused before anything of theirs is read.
func (e *Engine) accept(conn *endpoint.Connection) {
	p := e.peer(conn.RemoteNodeID())
	switch {
	case conn.ALPN() != wire.ALPN:
		conn.Close(uint64(wire.CloseProtocol), "unknown protocol")
		return
	case (p == nil || p.access.Load().onDemand) && e.cfg.Invites != nil && e.cfg.Invites.Invited(conn.RemoteNodeID()):
		e.takeJoin(conn)
		return
	case p == nil || p.access.Load().onDemand:
		conn.Close(uint64(wire.CloseNotAuthorised), "not authorised")
		return
	case !p.allowed():
		conn.Close(uint64(wire.CloseDenied), "denied")
		return
	}
	defer p.greeting.Add(-1)
	if p.greeting.Add(1) > maxGreeting {
		conn.Close(uint64(wire.CloseReplaced), "too many connections")
		return
	}
	ctx, cancel := context.WithTimeout(e.life, dialTimeout)
	defer cancel()
	s, err := p.handshake(ctx, conn, p.id, false)
	if err != nil {
		if e.life.Err() != nil {
			conn.Close(uint64(wire.CloseShuttingDown), "shutting down")
		}
		closeFailed(conn, err)
		e.log.Debug("a peer's connection did not come up", "peer", p.id, "err", err)
		return
	}
	conn.Welcome()
	p.adopt(s)
}

// closeFailed closes a connection whose hello failed and returns the better
// of the two reasons: what the other side said, else err.
func closeFailed(conn *endpoint.Connection, err error) error {
	if cause := conn.CloseCause(); cause != nil {
		err = cause
	}
	code := wire.CloseInternal
	if errors.Is(err, wire.ErrProtocol) {
		code = wire.CloseProtocol
	}
	conn.Close(uint64(code), identity.Clean(err.Error(), 120))
	return err
}

// handshake exchanges hellos; a connection is up once the peer's was read.
func (p *peer) handshake(ctx context.Context, conn *endpoint.Connection, dialler identity.NodeID, replaces bool) (*session, error) {
	s, err := newSession(p, conn, dialler, replaces)
	if err != nil {
		return nil, err
	}
	if err := s.expectCoding(); err != nil {
		return nil, err
	}
	if err := s.sendHello(ctx); err != nil {
		return nil, fmt.Errorf("send hello: %w", err)
	}
	if err := s.readHello(ctx); err != nil {
		return nil, fmt.Errorf("read hello: %w", err)
	}
	return s, nil
}

// adopt makes a session that is up one of the peer's. With another one there
// already, the rules for two connections of one pair say which stays; the
// loser keeps its flows until they end.
func (p *peer) adopt(s *session) {
	p.mu.Lock()
	if !p.allowed() {
		p.mu.Unlock()
		s.goodbye(wire.CloseDenied, "denied")
		return
	}
	if !p.engine.spawn(s.run) {
		p.mu.Unlock()
		s.goodbye(wire.CloseShuttingDown, "shutting down")
		return
	}
	old := p.current.Load()
	winner, loser := chooseSession(old, s)
	p.sessions = append(p.sessions, s)
	excess := p.excessLocked(winner)
	p.current.Store(winner)
	p.lastErr, p.refused, p.checked, p.reachable = "", false, time.Time{}, true
	if p.attempt != nil {
		p.attempt.finish(winner, nil)
	}
	p.mu.Unlock()

	p.saw(time.Now())
	s.tellRules(p.access.Load())
	s.send(wire.TypeFacts, p.engine.facts())
	p.flushWaiting(winner)
	switch {
	case loser == nil:
	case loser.instance != winner.instance:
		loser.close(wire.CloseReplaced, "the node restarted")
	default:
		p.engine.spawn(func() { loser.retire(winner) })
	}
	for _, s := range excess {
		s.close(wire.CloseReplaced, "too many connections")
	}
}

// maxDraining is how many replaced connections a peer may still hold.
const maxDraining = 4

// excessLocked returns the oldest replaced sessions above the limit.
func (p *peer) excessLocked(winner *session) []*session {
	var excess []*session
	over := len(p.sessions) - 1 - maxDraining
	for _, s := range p.sessions {
		if over <= 0 {
			break
		}
		if s != winner {
			excess = append(excess, s)
			over--
		}
	}
	return excess
}

// chooseSession decides which of two sessions of one pair stays; loser is nil
// when there is no other.
func chooseSession(old, fresh *session) (winner, loser *session) {
	if old == nil || old.ended() {
		return fresh, nil
	}
	return chooseUp(old, fresh)
}

// chooseUp decides between two sessions that are both up, of which fresh came
// up later here. Both ends decide alike, because only what both know counts:
// the instances, the diallers, and whether a dialler knew of the other session.
func chooseUp(old, fresh *session) (winner, loser *session) {
	switch {
	case old.instance != fresh.instance, old.dialler == fresh.dialler, fresh.replaces:
		return fresh, old
	case old.replaces, old.dialler.Compare(fresh.dialler) < 0:
		return old, fresh
	default:
		return fresh, old
	}
}

// left is called when a session has ended: another one that is still up takes
// over. A peer that answered with a stateless reset has restarted and is
// dialled at once.
func (p *peer) left(s *session, cause error) {
	p.mu.Lock()
	kept := p.sessions[:0]
	for _, other := range p.sessions {
		if other != s {
			kept = append(kept, other)
		}
	}
	clear(p.sessions[len(kept):])
	p.sessions = kept
	if p.current.Load() == s {
		var next *session
		for _, other := range p.sessions {
			if !other.ended() {
				next = other
			}
		}
		p.current.Store(next)
	}
	alone := p.current.Load() == nil
	p.mu.Unlock()
	if !alone {
		return
	}
	closed, _ := endpoint.Cause(cause)
	text, refused := closeText(closed, cause)
	if text != "" {
		p.fail(text, refused)
	}
	if closed.Kind == endpoint.Reset && p.allowed() {
		p.dialInBackground()
	}
}

// dialFailed turns the error of a dial into what status shows.
func (p *peer) dialFailed(err error) {
	if errors.Is(err, context.Canceled) || p.current.Load() != nil && p.answering() {
		return
	}
	closed, _ := endpoint.Cause(err)
	text, refused := closeText(closed, err)
	switch {
	case closed.Busy() && p.wasRefused(): // it says so once a minute
		return
	case closed.Busy():
		text = "it takes no more connections at the moment"
	case errors.Is(err, endpoint.ErrNoAddress):
		text = "nobody knows where it is" // what each source says: nodetun lookup
	case text == "", errors.Is(err, context.DeadlineExceeded), closed.Kind == endpoint.Idle:
		text = p.noAnswer()
	}
	p.fail(text, refused)
	p.engine.log.Info("peer not reached", "peer", p.id, "err", text)
}

// noAnswer words the silence of a peer: it cannot be told from outside whether
// a machine is off or has not added us.
func (p *peer) noAnswer() string {
	text := "no answer: offline, or it has not added you"
	info, known := p.engine.cfg.Endpoint.Socket().Remote(p.id)
	if !known || !info.LastHeard.IsZero() {
		return text
	}
	for _, addr := range info.Addrs {
		return text + fmt.Sprintf("; no node with this id answers at %s", addr.Addr)
	}
	return text
}

// closeText words the end of a connection for status; empty when there is
// nothing to tell. refused: the peer itself said no.
func closeText(closed endpoint.CloseError, err error) (text string, refused bool) {
	if closed.Kind != endpoint.Application {
		if err == nil || closed.Kind == endpoint.Reset {
			return "", false
		}
		return identity.Clean(strings.ReplaceAll(err.Error(), "\n", "; "), 200), false
	}
	switch wire.CloseCode(closed.Code) {
	case wire.CloseNormal, wire.CloseReplaced:
		return "", false
	case wire.CloseShuttingDown:
		return "it was shut down", false
	case wire.CloseNotAuthorised:
		return "refused: it has not added you", true
	case wire.CloseDenied:
		return "refused: it has denied you", true
	default:
		return "closed by the other side: " + identity.Clean(closed.Reason, 120), false
	}
}
