package portmap

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

const (
	// requestTime is how long a mapping is asked for, releaseTime how long it
	// is given back.
	requestTime = 4 * time.Second
	releaseTime = time.Second

	// An attempt that failed is repeated after these pauses, the last one again and
	// again, and at once when the network changes: a router that maps no ports will
	// not begin to.
	firstRetry  = time.Minute
	secondRetry = 5 * time.Minute
	laterRetry  = 30 * time.Minute
	// A refusal that says how long it stays is believed within these bounds
	// (RFC 6887 7.4 has 30 minutes for long ones).
	refusedMin = 30 * time.Second
	refusedMax = 30 * time.Minute

	// A renewal that failed is repeated at half of what remains (RFC 6887
	// 11.2.1), within these bounds.
	renewMin = 4 * time.Second
	renewMax = time.Minute
	// silentMax is how many renewals may fail before other protocols are tried.
	silentMax = 2

	// forgotPause is the least time between two renewals for the reason that
	// the router seems to have forgotten, forgotSpread how long one waits for
	// chance, as other hosts heard of it too.
	forgotPause  = 10 * time.Second
	forgotSpread = 2 * time.Second

	// verifyAfter is how old a mapping may be when it is of use, verifyIGD the
	// same for UPnP, which costs three connections.
	verifyAfter = time.Minute
	verifyIGD   = 5 * time.Minute
)

// keeper is what Run knows.
type keeper struct {
	c    *Client
	r    *router // nil: no router
	port uint16
	held *held // nil: none
	hint netip.AddrPort

	fails   int       // in a row
	retry   time.Time // when the next is due; only when nothing is held
	refused time.Time // not to be asked before
	renewed time.Time // when the router was last asked because it had forgotten
}

// held is a mapping.
type held struct {
	p         Protocols
	lease     lease
	confirmed time.Time // when the router last showed that it knows
	renew     time.Time // when it is to be asked again
	expires   time.Time

	stop context.CancelFunc // ends hear
	ears sync.WaitGroup
}

// step does what is due and returns when the next is; zero: when something
// happens.
func (k *keeper) step(ctx context.Context, in input) time.Time {
	now := time.Now()
	k.follow(ctx, in)
	switch {
	case k.r == nil || k.port == 0:
		return time.Time{}
	case k.held != nil && !now.Before(k.held.expires):
		k.drop()
		k.obtain(ctx)
	case k.held == nil:
		if k.mayTry(now) {
			k.obtain(ctx)
		}
	default:
		k.tend(ctx, now, in)
	}
	if ctx.Err() != nil {
		return time.Now() // given up for a change: again
	}
	if k.held == nil {
		return k.retry
	}
	return earlier(k.held.renew, k.held.expires)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// follow takes over another router or port.
func (k *keeper) follow(ctx context.Context, in input) {
	gw, ok := k.c.gateway()
	if !ok {
		k.drop() // there is nobody to give it back to
		k.r = nil
	} else if r := k.c.at(gw); r != k.r {
		k.drop()
		if k.r == nil || k.r.gw.Addr != gw.Addr {
			k.hint = netip.AddrPort{}
		}
		k.r, k.fails, k.retry, k.refused = r, 0, time.Time{}, time.Time{}
	}
	if in.changed {
		k.fails, k.retry = 0, time.Time{}
	}
	if in.port != k.port {
		k.giveBack(ctx)
		k.port = in.port
		k.fails, k.retry, k.refused = 0, time.Time{}, time.Time{}
	}
}

// mayTry says that an attempt is due.
func (k *keeper) mayTry(now time.Time) bool {
	if now.Before(k.refused) {
		k.retry = k.refused
		return false
	}
	return !now.Before(k.retry)
}

// obtain asks for a mapping when there is none, or when the one that is held
// does not answer.
func (k *keeper) obtain(ctx context.Context) {
	p, l, err := k.r.obtain(ctx, ask{internal: k.port, external: k.hint})
	now := time.Now()
	switch {
	case err == nil:
		k.keep(p, l, now)
	case ctx.Err() != nil:
	default:
		k.fail(err, now)
	}
}

// fail plans the next attempt.
func (k *keeper) fail(err error, now time.Time) {
	k.fails++
	pause := []time.Duration{firstRetry, secondRetry, laterRetry}[min(k.fails, 3)-1]
	if no := (*refusal)(nil); errors.As(err, &no) && no.again > 0 {
		pause = max(pause, min(max(no.again, refusedMin), refusedMax))
		k.refused = now.Add(pause)
	}
	k.retry = now.Add(pause)
	k.c.cfg.Logger.Debug("no port mapping", "gateway", k.r.gw.Addr, "err", err, "again", pause)
}

// keep takes what was granted.
func (k *keeper) keep(p Protocols, l lease, now time.Time) {
	k.fails, k.retry, k.refused, k.hint = 0, time.Time{}, time.Time{}, l.external
	k.c.remembered()
	old := k.held
	h := old
	if old == nil || old.p != p || old.lease.external != l.external {
		k.deafen()
		h = &held{p: p}
		var ctx context.Context
		ctx, h.stop = context.WithCancel(context.Background()) // ended by deafen
		m := k.r.methods[p]
		h.ears.Go(func() { m.hear(ctx, l) })
	}
	h.lease, h.confirmed, h.expires = l, now, now.Add(l.lifetime)
	h.renew = now.Add(l.lifetime/2 + rand.N(l.lifetime/16+1))
	k.held = h
	k.c.publish(&Mapping{
		External: l.external, Private: isPrivate(l.external.Addr()), Internal: l.internal,
		Protocol: p.String(), Gateway: k.r.gw.Addr, Expires: h.expires,
	})
}

// deafen ends hear of what is held.
func (k *keeper) deafen() {
	if k.held != nil {
		k.held.stop()
		k.held.ears.Wait()
	}
}

// drop forgets what is held.
func (k *keeper) drop() {
	if k.held == nil {
		return
	}
	k.deafen()
	k.held = nil
	k.c.publish(nil)
}

// giveBack withdraws what is held.
func (k *keeper) giveBack(ctx context.Context) {
	if k.held == nil {
		return
	}
	limited, cancel := context.WithTimeout(ctx, releaseTime)
	defer cancel()
	if err := k.r.methods[k.held.p].release(limited, k.held.lease); err != nil {
		k.c.cfg.Logger.Debug("port mapping not withdrawn", "err", err)
	}
	k.drop()
}

// tend renews or verifies what is held, if that is due.
func (k *keeper) tend(ctx context.Context, now time.Time, in input) {
	h := k.held
	if in.forgot {
		soon := now.Add(rand.N(forgotSpread))
		if first := k.renewed.Add(forgotPause); soon.Before(first) {
			soon = first
		}
		k.renewed = soon
		h.renew = earlier(h.renew, soon)
	}
	switch {
	case in.changed:
		k.anew(ctx)
		return
	case !now.Before(h.renew):
		k.renew(ctx)
		return
	}
	limit := verifyAfter
	if h.p == UPnP {
		limit = verifyIGD
	}
	if in.woke && now.Sub(h.confirmed) >= limit {
		k.verify(ctx)
	}
}

// anew asks for the same after a change of the network, which may have put another
// router in the place of this one: nothing counts that was known of it.
func (k *keeper) anew(ctx context.Context) {
	k.r.forget()
	p, l, err := k.r.obtain(ctx, ask{internal: k.port, external: k.held.lease.external})
	switch {
	case err == nil:
		k.keep(p, l, time.Now())
	case ctx.Err() != nil:
	default:
		k.drop()
		k.fail(err, time.Now())
	}
}

// renew asks for the same again.
func (k *keeper) renew(ctx context.Context) {
	h := k.held
	l, err := k.r.request(ctx, h.p, ask{internal: k.port, external: h.lease.external})
	now := time.Now()
	no := (*refusal)(nil)
	switch {
	case err == nil:
		k.keep(h.p, l, now)
		return
	case ctx.Err() != nil:
		return
	case errors.As(err, &no):
		k.c.cfg.Logger.Debug("port mapping not renewed", "err", err)
		k.drop()
		k.obtain(ctx)
		return
	}
	k.fails++
	if k.fails > silentMax {
		p, l, err := k.r.obtain(ctx, ask{internal: k.port, external: k.hint})
		if err == nil {
			k.keep(p, l, time.Now())
			return
		}
		now = time.Now()
	}
	h.renew = now.Add(min(max(h.expires.Sub(now)/2, renewMin), renewMax))
	k.c.cfg.Logger.Debug("port mapping not renewed", "err", err, "again", h.renew.Sub(now))
}

// verify asks whether the router still knows what is held.
func (k *keeper) verify(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, requestTime)
	err := k.r.methods[k.held.p].verify(limited, k.held.lease)
	cancel()
	if errors.Is(err, errForgot) {
		k.renew(ctx)
		return
	}
	if ctx.Err() == nil {
		k.held.confirmed = time.Now() // or silent: not to be asked again at once
	}
}
