package portmap

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

const (
	// maxLifetime caps what a router grants (RFC 6887 15 has 24 hours).
	maxLifetime = 24 * time.Hour
	// minLifetime is the least that is worth having: less would be a packet
	// every few seconds for ever.
	minLifetime = 10 * time.Second
	// askLifetime is what is asked for.
	askLifetime = 2 * time.Hour
)

var (
	// errForgot says that the router answers and knows nothing of the mapping.
	errForgot = errors.New("the router has forgotten the mapping")
	// errNotSpoken says that the router answered something else.
	errNotSpoken = errors.New("the router does not speak it")
)

// refusal is a router's no.
type refusal struct {
	reason error
	// again is how long the answer stays the same; 0 is unknown.
	again time.Duration
}

func (r *refusal) Error() string { return "refused: " + r.reason.Error() }
func (r *refusal) Unwrap() error { return r.reason }

// ask is what is wanted of a router.
type ask struct {
	internal uint16
	// external is asked for; zero is any.
	external netip.AddrPort
}

// lease is what a router granted.
type lease struct {
	internal uint16
	external netip.AddrPort
	lifetime time.Duration
}

// checked refuses a lease that cannot be one, and caps its life.
func (l lease) checked() (lease, error) {
	addr := l.external.Addr()
	switch {
	case l.external.Port() == 0:
		return lease{}, errors.New("external port 0")
	case !addr.Is4(), !addr.IsGlobalUnicast(), addr.As4()[0] == 0, addr.As4()[0] >= 240:
		return lease{}, fmt.Errorf("%v is no external address", addr)
	case l.lifetime < minLifetime:
		return lease{}, fmt.Errorf("a lifetime of %v is too short", l.lifetime)
	}
	l.lifetime = min(l.lifetime, maxLifetime)
	return l, nil
}

// isPrivate says that an address is of use inside some network only.
func isPrivate(a netip.Addr) bool {
	shared := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, 0, 0}), 10) // RFC 6598
	return a.IsPrivate() || shared.Contains(a)
}

// method is one protocol, towards one router. When the router seems to have
// forgotten, whatever call showed it, Client.forgotten is called.
//
// find may be called by others while the rest is; the other calls follow each
// other, but hear, which runs beside them.
type method interface {
	// find asks whether the router speaks it.
	find(ctx context.Context) error
	// request asks for a mapping, or renews it.
	request(ctx context.Context, want ask) (lease, error)
	// verify asks whether the router remembers: errForgot if not.
	verify(ctx context.Context, l lease) error
	// release gives a mapping back.
	release(ctx context.Context, l lease) error
	// hear listens to announcements until ctx ends.
	hear(ctx context.Context, l lease)
}
