package relayactor

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
	"github.com/nodetun/nodetun/relay/relayclient"
)

const (
	// idleClose is how long a link that is not home lives without a Send.
	idleClose = 60 * time.Second
	// staleAfter is how old waiting packets may become while there is no
	// connection; QUIC has long sent them again.
	staleAfter = 3 * time.Second
	// firstDelay and maxDelay bound the wait before the next try, which
	// doubles with every failure.
	firstDelay = 100 * time.Millisecond
	maxDelay   = 16 * time.Second
	// refusedDelay is the least wait after a relay refused this node, at most twice;
	// refusedPause the same where the relay said why it ended the connection.
	refusedDelay = 2 * time.Minute
	refusedPause = 15 * time.Second
	// changePatience is how long a relay may be silent after a change of the network:
	// most often its connection is dead then, and dialling anew takes less.
	changePatience = time.Second
	// restartDelay is the wait between tries while a relay restarts, of which at
	// least half, and maxRestart how long that may take.
	restartDelay = 500 * time.Millisecond
	maxRestart   = 2 * time.Minute
	// maxRestarts in that time are believed; a relay may announce them in a loop.
	maxRestarts = 3
	// steadyAfter is how long a connection must have lived for the next loss
	// to count as the first. Two nodes with one key throw each other out at
	// once; they must not do so at full speed.
	steadyAfter = 30 * time.Second
)

// link is everything about one relay.
type link struct {
	actor     *Actor
	url       identity.RelayURL
	foreign   bool
	queue     *relay.Queue
	wake      chan struct{} // holds one token when events is set
	lastUse   atomic.Int64  // of Send, since actor.begin
	connected atomic.Bool
	heard     nodeSet
	flood     flood

	// Those of run alone.
	iroh1     bool      // the protocol of the last connection
	restarted time.Time // until then the relay may need to restart
	// restarts counts those that it announced one soon after the other, restartedAt is
	// when it did last.
	restarts    int
	restartedAt time.Time

	mu        sync.Mutex // guards the fields below
	state     State
	since     time.Time
	lastError string
	client    *relayclient.Client // while connected
	events    events
	failures  int  // in a row
	shared    bool // another machine uses our key there
	broke     bool // a connection broke, and nothing was tried since
}

// events are what a link is to look at when it wakes.
type events struct{ network, slept bool }

func newLink(a *Actor, url identity.RelayURL, foreign bool) *link {
	return &link{
		actor:   a,
		url:     url,
		foreign: foreign,
		queue:   relay.NewQueue(&a.pool),
		wake:    make(chan struct{}, 1),
		state:   StateConnecting,
		since:   time.Now(),
	}
}

// touch notes that the link is used.
func (l *link) touch() { l.lastUse.Store(int64(time.Since(l.actor.begin))) }

// idle returns how long the link has not been used.
func (l *link) idle() time.Duration {
	return time.Since(l.actor.begin) - time.Duration(l.lastUse.Load())
}

// run keeps the connection until ctx is done or nobody needs it.
func (l *link) run(ctx context.Context) {
	for ctx.Err() == nil {
		begin := time.Now()
		client, err := l.dial(ctx)
		if time.Since(begin) > staleAfter {
			l.queue.Clear()
		}
		dialled := err == nil
		if dialled {
			err = l.serve(ctx, client)
		}
		if ctx.Err() != nil || l.actor.retire(l) {
			break
		}
		l.note(dialled)
		l.set(StateFailed, err, nil)
		l.wait(ctx, l.delay(err))
		if l.actor.retire(l) {
			break
		}
	}
	if l.actor.cfg.LinkChanged != nil && ctx.Err() == nil {
		l.actor.cfg.LinkChanged(l.url, true)
	}
	l.actor.changed()
}

func (l *link) dial(ctx context.Context) (*relayclient.Client, error) {
	a := l.actor
	a.count.dials.Add(1)
	proxy := a.cfg.Proxy
	if l.foreign {
		proxy = nil // what it reaches cannot be checked (S10)
	}
	client, err := relayclient.Dial(ctx, relayclient.Config{
		URL:     l.url,
		Key:     a.cfg.Key,
		Dial:    a.cfg.Dial,
		DNS:     a.cfg.DNS,
		Control: a.control(l.foreign),
		Proxy:   proxy,
		Token:   a.cfg.Tokens[l.url],
		Iroh1:   l.iroh1,
		TLS:     a.tls,
		Queue:   l.queue,
		Logger:  a.logger,
	})
	if err != nil && ctx.Err() == nil {
		a.count.dialErrors.Add(1)
		a.logger.Debug("relay cannot be reached", "relay", l.url.String(), "error", err)
	}
	if err == nil {
		l.iroh1 = client.Iroh1()
	}
	return client, err
}

// serve runs a connection until it ends or is idle for too long.
func (l *link) serve(ctx context.Context, client *relayclient.Client) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)

	begin := time.Now()
	l.set(StateConnected, nil, client)
	if l.actor.isHome(l) {
		client.NotePreferred(true)
	}
	wg.Go(func() { l.watch(ctx, cancel, client) })
	h := &handler{link: l}
	err := client.Run(ctx, h)
	if errors.Is(context.Cause(ctx), errFlooded) {
		err = errFlooded
	} else if h.health != "" {
		err = &refusedError{text: h.health, err: err}
	}
	l.connected.Store(false)
	l.heard.clear()
	if time.Since(begin) >= steadyAfter {
		l.resetFailures()
	}
	l.actor.logger.Debug("relay connection ended", "relay", l.url.String(), "error", err)
	return err
}

// watch ends an idle connection, and one that is flooded and not needed, and looks after a changed network.
func (l *link) watch(ctx context.Context, cancel context.CancelCauseFunc, client *relayclient.Client) {
	timer, answer := time.NewTimer(idleClose), time.NewTimer(0)
	defer timer.Stop()
	defer answer.Stop()
	var asked time.Time // when the relay was to show that it is there; zero: it need not
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		case <-timer.C:
		case <-answer.C:
			if !asked.IsZero() && client.Heard().Before(asked) {
				cancel(nil)
				return
			}
			asked = time.Time{}
		}
		if e := l.takeEvents(); e.network {
			if e.slept || !stillOurs(client.LocalAddr()) {
				cancel(nil)
				return
			}
			client.Ping()
			asked = time.Now()
			answer.Reset(max(changePatience, 3*client.RTT()))
		}
		switch idle := l.idle(); {
		case l.flood.now(time.Now()) && l.actor.replaced(l):
			cancel(errFlooded)
			return
		case l.actor.keeps(l):
			timer.Stop() // who ends that wakes us
		case idle >= idleClose:
			cancel(nil)
			return
		default:
			timer.Reset(idleClose - idle)
		}
	}
}

// wait waits for the next try; a changed network makes it the first again.
// What is queued meanwhile does not grow old.
func (l *link) wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	stale := time.NewTicker(staleAfter)
	defer stale.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case <-stale.C:
			l.queue.Clear()
		case <-l.wake:
			if l.takeEvents().network {
				l.resetFailures()
				return
			}
		}
	}
}

// delay returns how long to wait after the failure just seen: next to nothing
// after the first, then up to 100 ms doubling to 16 s, of which at least half; long
// after a relay said no; as the relay wishes when it restarts.
func (l *link) delay(err error) time.Duration {
	if errors.Is(err, errFlooded) {
		return floodPause + rand.N(floodPause)
	}
	if errors.Is(err, relayclient.ErrRefused) {
		return refusedDelay + rand.N(refusedDelay)
	}
	if _, ok := errors.AsType[*refusedError](err); ok { // it will say the same again
		return refusedPause + rand.N(refusedPause)
	}
	if restart, ok := errors.AsType[*relayclient.RestartError](err); ok {
		return l.restartDelay(restart)
	}
	if time.Now().Before(l.restarted) {
		return restartDelay/2 + rand.N(restartDelay/2)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.failures
	l.failures++
	if n == 0 {
		return rand.N(firstDelay / 4)
	}
	d := min(firstDelay<<min(n-1, 10), maxDelay)
	return d/2 + rand.N(d/2)
}

// restartDelay is what the relay wishes, but no less than it takes to restart, and more
// and more for one that restarts again and again.
func (l *link) restartDelay(restart *relayclient.RestartError) time.Duration {
	now := time.Now()
	if now.Sub(l.restartedAt) > maxRestart {
		l.restarts = 0
	}
	l.restarts++
	l.restartedAt = now
	l.restarted = now.Add(min(restart.TryFor, maxRestart))
	least := restartDelay / 2
	if l.restarts > maxRestarts {
		least = restartDelay << min(l.restarts-maxRestarts, 10)
	}
	return min(max(restart.After, least), maxDelay)
}

func (l *link) resetFailures() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures = 0
}

func (l *link) set(state State, err error, client *relayclient.Client) {
	l.mu.Lock()
	changed := l.state != state
	l.client = client
	l.lastError = ""
	if err != nil {
		l.lastError = err.Error()
	}
	if changed {
		l.state, l.since = state, time.Now()
	}
	l.connected.Store(state == StateConnected)
	l.shared = false
	l.mu.Unlock()
	if l.actor.cfg.LinkChanged != nil && (changed || state == StateFailed) {
		l.actor.cfg.LinkChanged(l.url, state == StateConnected)
	}
	l.actor.reconsider()
	if changed {
		l.actor.changed()
	}
}

// note remembers whether it was a connection that failed, not a try to make one.
func (l *link) note(broke bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broke = broke
}

// lost says that a connection broke and the first try to replace it is not over.
func (l *link) lost() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state == StateFailed && l.broke
}

// stateSince returns the state and when it began.
func (l *link) stateSince() (State, time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state, l.since
}

func (l *link) status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Status{URL: l.url, State: l.state, LastError: l.lastError, Since: l.since, Shared: l.shared, Flooded: l.flood.now(time.Now())}
	if l.client != nil {
		s.RTT = l.client.RTT()
	}
	return s
}

// dropped counts what came of nodes that are not admitted.
func (l *link) dropped(n int) {
	now := time.Now()
	was := l.flood.now(now)
	if !l.flood.add(now, n) {
		return
	}
	l.actor.reconsider()
	if !was {
		l.actor.logger.Warn("nodes that are no peers flood this one through a relay", "relay", l.url.String())
		l.actor.changed()
	}
	l.rouse()
}

// noteShared takes in what a relay says about other connections with our key.
func (l *link) noteShared(text string) {
	l.mu.Lock()
	was := l.shared
	l.shared = text == relay.HealthElsewhere || was && text != relay.HealthBack
	changed := l.shared != was
	l.mu.Unlock()
	if changed {
		l.actor.changed()
	}
}

// homeChanged tells a connected relay whether it is home now.
func (l *link) homeChanged() {
	l.mu.Lock()
	client := l.client
	l.mu.Unlock()
	if client != nil {
		client.NotePreferred(l.actor.isHome(l))
	}
	l.rouse()
}

func (l *link) networkChanged(slept bool) {
	l.mu.Lock()
	l.events.network = true
	l.events.slept = l.events.slept || slept
	l.mu.Unlock()
	l.rouse()
}

func (l *link) takeEvents() events {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.events
	l.events = events{}
	return e
}

func (l *link) rouse() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// stillOurs reports whether an interface still has that address. When it
// cannot be told, it is assumed; the ping finds out.
func stillOurs(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return true
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return true
	}
	return slices.ContainsFunc(addrs, func(a net.Addr) bool {
		prefix, ok := a.(*net.IPNet)
		if !ok {
			return false
		}
		own, ok := netip.AddrFromSlice(prefix.IP)
		return ok && own.Unmap() == ip
	})
}
