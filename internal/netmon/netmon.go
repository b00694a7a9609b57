package netmon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"time"
)

const (
	defaultDebounce = 250 * time.Millisecond
	// How often the clocks are read: rarely where the system tells of a sleep. A stop
	// of the process is seen when it lasts for a tick + sleepGap at least.
	tick     = 2 * time.Second
	toldTick = time.Minute
	// lookEvery is the time between two looks at the state without a trigger, where
	// the system does not tell everything. A look lists all routes.
	lookEvery = 16 * time.Second
	// errorPause is how long a source that fails is left alone.
	errorPause = time.Second
)

// Event is a change, or several that nobody took in between.
type Event struct {
	// Major says that paths in use may be dead: an address went, the best
	// default route changed, or a whole IP version came or went. Otherwise
	// something was added or changed that only offers more.
	Major bool
	// Slept says that the machine or the process did not run for a while: what
	// others remember of it, NAT mappings too, may be gone.
	Slept bool
}

// Config is what New takes.
type Config struct {
	// Exclude names interfaces that never count: our own TUN. Nil: none.
	Exclude func(name string) bool
	// Mark is the firewall mark of the packets that MustName is asked about; 0 is none.
	Mark uint32
	// Debounce is the pause between a trigger and the look. 0 means 250 ms.
	Debounce time.Duration
	// Logger gets changes at debug level. Nil discards.
	Logger *slog.Logger
}

// Monitor watches the network. Make it with New.
type Monitor struct {
	// first is the state that New found. What changes between New, after which
	// others list the interfaces, and Run must count as a change.
	first   state
	cfg     Config
	src     source
	clock   func() clocks
	changed chan Event // holds one; watch alone sends

	closeOnce sync.Once
	closeErr  error
}

// source is what differs between systems.
type source interface {
	// wait blocks until something may have changed, or Close.
	wait() error
	// waitClock blocks until the wall clock was set or the machine woke, or
	// Close. Where the system does not tell, it blocks until Close.
	waitClock() error
	// tellsClock reports whether waitClock returns when the machine woke.
	tellsClock() bool
	// asleep is how long the machine has slept since it booted; 0 where the
	// system does not tell.
	asleep() time.Duration
	// interfaces lists all interfaces, excluded ones too.
	interfaces() ([]Interface, error)
	// routes lists the default routes.
	routes() ([]route, error)
	// path says from which address and through which interface packets to remote go,
	// if local is valid those that are sent from it; false if they go nowhere, or where
	// the system does not tell.
	path(remote, local netip.Addr) (from netip.Addr, link int, ok bool)
	// kind is the kernel's word for what made an interface, empty where it does not
	// tell.
	kind(link int) string
	Close() error
}

// New opens what the system offers for watching. It starts nothing.
func New(cfg Config) (*Monitor, error) {
	src, err := newSource(cfg.Mark)
	if err != nil {
		return nil, fmt.Errorf("watch the network: %w", err)
	}
	return newMonitor(cfg, src), nil
}

func newMonitor(cfg Config, src source) *Monitor {
	if cfg.Exclude == nil {
		cfg.Exclude = func(string) bool { return false }
	}
	if cfg.Debounce <= 0 {
		cfg.Debounce = defaultDebounce
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	m := &Monitor{cfg: cfg, src: src, changed: make(chan Event, 1)}
	m.clock = readClocks(src)
	var err error
	if m.first, err = m.look(); err != nil {
		cfg.Logger.Debug("network state", "err", err)
	}
	return m
}

// Changed yields an event after each change; those that nobody has taken yet
// are joined into one, which keeps what any of them said.
func (m *Monitor) Changed() <-chan Event { return m.changed }

// Close ends the watch; Run calls it.
func (m *Monitor) Close() error {
	m.closeOnce.Do(func() { m.closeErr = m.src.Close() })
	return m.closeErr
}

// Run watches until ctx ends and returns once all it started is gone.
func (m *Monitor) Run(ctx context.Context) error {
	network, clock := make(chan struct{}, 1), make(chan struct{}, 1)
	var wg sync.WaitGroup
	wg.Go(func() { m.listen(ctx, m.src.wait, network) })
	wg.Go(func() { m.listen(ctx, m.src.waitClock, clock) })
	m.watch(ctx, network, clock)
	err := m.Close() // ends listen
	wg.Wait()
	return err
}

// listen turns what the system says into triggers.
func (m *Monitor) listen(ctx context.Context, wait func() error, trigger chan<- struct{}) {
	for {
		err := wait()
		if ctx.Err() != nil || errors.Is(err, os.ErrClosed) {
			return
		}
		select {
		case trigger <- struct{}{}:
		default:
		}
		if err == nil {
			continue
		}
		m.cfg.Logger.Debug("network watch", "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(errorPause):
		}
	}
}

// watch compares the state after each trigger, from time to time where the system
// does not tell everything, and the clocks on every occasion.
func (m *Monitor) watch(ctx context.Context, network, clock <-chan struct{}) {
	last, clocks := m.first, m.clock()
	every, told := tick, m.src.tellsClock() // and of the network: nothing is lost without a word
	if told {
		every = toldTick
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	debounce := time.NewTimer(0)
	debounce.Stop()
	for armed, ticks := false, 0; ; {
		look := false
		select {
		case <-ctx.Done():
			return
		case <-network:
			if !armed {
				armed = true
				debounce.Reset(m.cfg.Debounce)
			}
		case <-debounce.C:
			armed, look = false, true
		case <-clock:
		case <-ticker.C:
			ticks++
			look = !told && ticks%int(lookEvery/tick) == 0
		}
		before := clocks
		clocks = m.clock()
		event := Event{Slept: clocks.sleptSince(before, every)}
		if !look && !event.Slept {
			continue
		}
		now, err := m.look()
		if err != nil {
			m.cfg.Logger.Debug("network state", "err", err)
			armed = true
			debounce.Reset(errorPause)
			now = last // what cannot be read has not changed
		}
		event.Major = now.lost(last)
		if event == (Event{}) && now.equal(last) {
			continue
		}
		last = now
		m.cfg.Logger.Debug("network changed", "major", event.Major, "slept", event.Slept)
		m.tell(event)
	}
}

// tell hands out an event together with one that nobody has taken yet.
func (m *Monitor) tell(e Event) {
	select {
	case old := <-m.changed:
		e.Major, e.Slept = e.Major || old.Major, e.Slept || old.Slept
	default:
	}
	m.changed <- e // there is room: nobody else sends
}
