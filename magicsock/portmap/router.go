package portmap

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	// seenFor is how long a protocol that was seen is taken to be spoken.
	seenFor = 10 * time.Minute
	// askedFor is how long one that was not seen is not asked for again.
	askedFor = 5 * time.Second

	findTime    = time.Second
	findTimeIGD = 2 * time.Second
)

// preference is the order in which protocols are used. PCP tells best what was
// granted; UPnP's routers often keep what nobody needs any more.
func preference() []Protocols { return []Protocols{PCP, NATPMP, UPnP} }

// router is one router, with what is known of it.
type router struct {
	gw      Gateway
	methods map[Protocols]method
	turn    chan struct{} // held by look: one at a time

	mu    sync.Mutex // guards the fields below
	seen  map[Protocols]time.Time
	asked map[Protocols]time.Time
}

func newRouter(c *Client, gw Gateway) *router {
	r := &router{
		gw: gw, methods: make(map[Protocols]method), turn: make(chan struct{}, 1),
		seen: make(map[Protocols]time.Time), asked: make(map[Protocols]time.Time),
	}
	for _, p := range preference() {
		if c.cfg.Protocols&p == 0 {
			continue
		}
		switch p {
		case PCP:
			r.methods[p] = &pcpMethod{c: c, gw: gw, epoch: &epoch{lost: c.forgotten}}
		case NATPMP:
			r.methods[p] = &natpmpMethod{c: c, gw: gw, epoch: &epoch{lost: c.forgotten}}
		case UPnP:
			r.methods[p] = newIGD(c, gw)
		}
	}
	return r
}

// known returns the protocols that were seen not long ago, and those that need
// not be asked for.
func (r *router) known(now time.Time) (found, done Protocols) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p := range r.methods {
		switch {
		case within(r.seen[p], now, seenFor):
			found, done = found|p, done|p
		case within(r.asked[p], now, askedFor):
			done |= p
		}
	}
	return found, done
}

func within(at, now time.Time, d time.Duration) bool { return !at.IsZero() && now.Sub(at) < d }

// note keeps the outcome of a question.
func (r *router) note(p Protocols, seen bool, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked[p] = now
	delete(r.seen, p)
	if seen {
		r.seen[p] = now
	}
}

// forget has all protocols asked for again.
func (r *router) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.seen)
	clear(r.asked)
}

// look asks for the protocols that are not known, all at once, until enough
// says that this will do; nil waits for all. It returns those seen.
func (r *router) look(ctx context.Context, enough func(found, done Protocols) bool) Protocols {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		found, _ := r.known(time.Now())
		return found
	}
	found, done := r.known(time.Now())
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer func() { cancel(); wg.Wait() }()
	type outcome struct {
		p    Protocols
		seen bool
	}
	outcomes := make(chan outcome, len(r.methods))
	waiting := 0
	for p, m := range r.methods {
		if done&p != 0 {
			continue
		}
		waiting++
		wg.Go(func() { outcomes <- outcome{p, r.ask(ctx, p, m)} })
	}
	for ; waiting > 0; waiting-- {
		if enough != nil && enough(found, done) {
			break
		}
		o := <-outcomes // ask takes two seconds at most
		done |= o.p
		if o.seen {
			found |= o.p
		}
	}
	return found
}

// ask asks for one protocol.
func (r *router) ask(ctx context.Context, p Protocols, m method) bool {
	limit := findTime
	if p == UPnP {
		limit = findTimeIGD
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := m.find(limited)
	if ctx.Err() != nil && err != nil {
		return false // not asked to the end
	}
	r.note(p, err == nil, time.Now())
	return err == nil
}

// best says that no better protocol can turn up.
func best(found, done Protocols) bool {
	for _, p := range preference() {
		if found&p != 0 {
			return true
		}
		if done&p == 0 {
			return false
		}
	}
	return true
}

// obtain asks for a mapping, by the best protocol first.
func (r *router) obtain(ctx context.Context, want ask) (Protocols, lease, error) {
	failure := errNoAnswer
	tried := Protocols(0)
	for _, enough := range []func(found, done Protocols) bool{r.best, nil} {
		found := r.look(ctx, enough)
		for _, p := range preference() {
			if found&p == 0 || tried&p != 0 {
				continue
			}
			tried |= p
			l, err := r.request(ctx, p, want)
			if err == nil {
				return p, l, nil
			}
			failure = err
		}
	}
	return 0, lease{}, failure
}

// best is the function of that name with those that are not spoken as done.
func (r *router) best(found, done Protocols) bool {
	for p := PCP; p < All; p <<= 1 {
		if r.methods[p] == nil {
			done |= p
		}
	}
	return best(found, done)
}

// request asks for a mapping by one protocol.
func (r *router) request(ctx context.Context, p Protocols, want ask) (lease, error) {
	limited, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	l, err := r.methods[p].request(limited, want)
	if no := (*refusal)(nil); err != nil && ctx.Err() == nil && !errors.As(err, &no) {
		r.note(p, false, time.Now())
	}
	return l, err
}
