package netmon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"
)

const (
	defaultDebounce = 250 * time.Millisecond
	// pollInterval is how often the state is compared without a trigger, and
	// the wall clock watched for the gap that a sleep leaves.
	pollInterval = 15 * time.Second
	// sleepGap is the least difference between the wall clock and the
	// monotonic one (which stands still in sleep) that is taken for a sleep.
	sleepGap = 5 * time.Second
)

// Interface is one network interface with its addresses.
type Interface struct {
	Name  string
	Index int
	Flags net.Flags
	// Addrs holds each address with the length of its network's prefix.
	Addrs []netip.Prefix
}

// IsUp says that the interface is up.
func (i Interface) IsUp() bool { return i.Flags&net.FlagUp != 0 }

// IsLoopback says that it is a loopback interface.
func (i Interface) IsLoopback() bool { return i.Flags&net.FlagLoopback != 0 }

// Config is what New takes.
type Config struct {
	// Exclude names interfaces that never count: our own TUN, the inside of
	// containers. Nil excludes those that Container recognises.
	Exclude func(name string) bool
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
	changed chan struct{}

	closeOnce sync.Once
	closeErr  error
}

// source is what differs between systems.
type source interface {
	// wait blocks until something may have changed, or Close.
	wait() error
	// interfaces lists all interfaces, excluded ones too.
	interfaces() ([]Interface, error)
	// routes lists the default routes, each as a text that identifies it.
	routes() ([]route, error)
	Close() error
}

// route is a default route: through which interface, over which gateway.
type route struct {
	index   int
	gateway string
}

// state is what is compared.
type state struct {
	interfaces []Interface
	routes     []route
}

// New opens what the system offers for watching. It starts nothing.
func New(cfg Config) (*Monitor, error) {
	src, err := newSource()
	if err != nil {
		return nil, fmt.Errorf("watch the network: %w", err)
	}
	return newMonitor(cfg, src), nil
}

func newMonitor(cfg Config, src source) *Monitor {
	if cfg.Exclude == nil {
		cfg.Exclude = Container
	}
	if cfg.Debounce <= 0 {
		cfg.Debounce = defaultDebounce
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	m := &Monitor{cfg: cfg, src: src, changed: make(chan struct{}, 1)}
	m.first = m.look()
	return m
}

// Container recognises the names of interfaces that container engines make and
// that lead to no other machine.
func Container(name string) bool {
	for _, prefix := range []string{"veth", "docker", "br-", "cni", "flannel", "cali", "lxcbr", "virbr"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// Changed yields a value after each change; changes that nobody has taken yet
// are joined into one.
func (m *Monitor) Changed() <-chan struct{} { return m.changed }

// Interfaces lists the interfaces of the host that are not excluded.
func (m *Monitor) Interfaces() ([]Interface, error) {
	all, err := m.src.interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var kept []Interface
	for _, i := range all {
		if !m.cfg.Exclude(i.Name) {
			kept = append(kept, i)
		}
	}
	return kept, nil
}

// AllInterfaces lists the excluded ones too: their addresses are this host's
// own as much as the others'.
func (m *Monitor) AllInterfaces() ([]Interface, error) {
	all, err := m.src.interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	return all, nil
}

// Close ends the watch; Run calls it.
func (m *Monitor) Close() error {
	m.closeOnce.Do(func() { m.closeErr = m.src.Close() })
	return m.closeErr
}

// Run watches until ctx ends and returns once all it started is gone.
func (m *Monitor) Run(ctx context.Context) error {
	trigger := make(chan struct{}, 1)
	var wg sync.WaitGroup
	wg.Go(func() { m.listen(ctx, trigger) })
	m.watch(ctx, trigger)
	err := m.Close() // ends listen
	wg.Wait()
	return err
}

// listen turns what the system says into triggers.
func (m *Monitor) listen(ctx context.Context, trigger chan<- struct{}) {
	for {
		err := m.src.wait()
		if ctx.Err() != nil || errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			m.cfg.Logger.Debug("network watch", "err", err)
		}
		select {
		case trigger <- struct{}{}:
		default:
		}
	}
}

// watch compares the state after each trigger, and from time to time.
func (m *Monitor) watch(ctx context.Context, trigger <-chan struct{}) {
	last := m.first
	clock := time.Now()
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	debounce := time.NewTimer(0)
	debounce.Stop()
	for armed := false; ; {
		slept := false
		select {
		case <-ctx.Done():
			return
		case <-trigger:
			if !armed {
				armed = true
				debounce.Reset(m.cfg.Debounce)
			}
			continue
		case <-debounce.C:
			armed = false
		case <-poll.C:
			now := time.Now()
			slept = now.Round(0).Sub(clock.Round(0))-now.Sub(clock) > sleepGap
			clock = now
		}
		now := m.look()
		if same := reflect.DeepEqual(now, last); same && !slept {
			continue
		}
		last = now
		m.cfg.Logger.Debug("network changed", "slept", slept)
		select {
		case m.changed <- struct{}{}:
		default:
		}
	}
}

// look reads the state that matters: interfaces that are up and lead
// elsewhere, their addresses that reach further than the link, and the default
// routes. What cannot be read counts as absent.
func (m *Monitor) look() state {
	var s state
	list, err := m.Interfaces()
	if err != nil {
		m.cfg.Logger.Debug("network state", "err", err)
	}
	seen := make(map[int]bool)
	for _, i := range list {
		if !i.IsUp() || i.IsLoopback() {
			continue
		}
		seen[i.Index] = true
		var addrs []netip.Prefix
		for _, a := range i.Addrs {
			if a.Addr().IsGlobalUnicast() {
				addrs = append(addrs, a)
			}
		}
		i.Addrs = addrs
		i.Flags &= net.FlagUp
		s.interfaces = append(s.interfaces, i)
	}
	routes, err := m.src.routes()
	if err != nil {
		m.cfg.Logger.Debug("network state", "err", err)
	}
	for _, r := range routes {
		if seen[r.index] {
			s.routes = append(s.routes, r)
		}
	}
	return s
}
