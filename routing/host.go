package routing

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"
)

var (
	// ErrNotSupported is returned by Apply on systems for which Host is not
	// written yet.
	ErrNotSupported = errors.New("host routing is not yet supported on this system")
	// ErrLinkGone is wrapped when the link does not exist (any more).
	ErrLinkGone = errors.New("link not found")
	// ErrPermission is wrapped when the kernel refuses a change.
	ErrPermission = errors.New("not permitted to change the network (needs root or CAP_NET_ADMIN)")
)

const (
	// selfCheck is how often Run looks by itself, for what the kernel announces to
	// nobody. Everything else is seen at once: a lost announcement ends a watch,
	// which is a reason to look, too.
	selfCheck = 30 * time.Second
	// repairGap keeps Run from spinning against somebody who keeps undoing its
	// work.
	repairGap = 100 * time.Millisecond
)

// HostConfig says what the host has to look like.
type HostConfig struct {
	// Link is the name of the interface that carries the overlay. It must
	// exist when Apply is called.
	Link string
	// Addrs are this node's overlay addresses with their lengths, usually a
	// /128 and a /32.
	Addrs []netip.Prefix
	// Routes are the overlay prefixes that go through the link.
	Routes []netip.Prefix
	// MTU of the link in bytes; 0 leaves it as it is.
	MTU int
	// OnChange is called by Run when something changed that may take packets from the
	// overlay: links, addresses, rules, routes inside it. It must not block. May be nil.
	OnChange func()
	// Logger; nil discards.
	Logger *slog.Logger
}

// Problem is something that keeps the overlay from working fully on this host,
// and what the user can do about it.
type Problem struct {
	Text, Fix string
}

// Host keeps link, addresses and routes as HostConfig wants them.
type Host struct {
	cfg   HostConfig
	state hostState // of Apply, Run and Undo

	mu       sync.Mutex // guards problems
	problems []Problem
}

// NewHost checks the configuration. It changes nothing on the host.
func NewHost(cfg HostConfig) (*Host, error) {
	if cfg.Link == "" {
		return nil, errors.New("routing: no link named")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	for _, p := range slices.Concat(cfg.Addrs, cfg.Routes) {
		if !p.IsValid() {
			return nil, errors.New("routing: invalid prefix")
		}
	}
	for _, p := range cfg.Routes {
		if p.Bits() < defaultRouteBits {
			return nil, fmt.Errorf("routing: route %s is too wide for an overlay prefix", p)
		}
	}
	cfg.Addrs = slices.Clone(cfg.Addrs)
	cfg.Routes = slices.Clone(cfg.Routes)
	for i, p := range cfg.Routes {
		cfg.Routes[i] = p.Masked()
	}
	return &Host{cfg: cfg}, nil
}

// Problems returns what is wrong at present, nil when nothing is.
func (h *Host) Problems() []Problem {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.problems)
}

// setProblems stores them and logs those that are new.
func (h *Host) setProblems(now []Problem) {
	h.mu.Lock()
	old := h.problems
	h.problems = now
	h.mu.Unlock()
	for _, p := range now {
		if !slices.Contains(old, p) {
			h.cfg.Logger.Warn("overlay limited on this host", "problem", p.Text, "fix", p.Fix)
		}
	}
}

// source returns the own address that packets into route shall carry.
func (h *Host) source(route netip.Prefix) netip.Addr {
	for _, a := range h.cfg.Addrs {
		if a.Addr().Is4() == route.Addr().Is4() {
			return a.Addr()
		}
	}
	return netip.Addr{}
}

// shadowed returns an attached prefix that the route would take traffic from.
// A route hides a network when it is equally or more specific; a more specific
// network inside the route stays reachable and hides a part of the overlay
// instead.
func shadowed(route netip.Prefix, attached []netip.Prefix) (netip.Prefix, bool) {
	i := slices.IndexFunc(attached, func(p netip.Prefix) bool {
		return p.Bits() >= defaultRouteBits && p.Bits() <= route.Bits() && p.Overlaps(route)
	})
	if i < 0 {
		return netip.Prefix{}, false
	}
	return attached[i].Masked(), true
}
