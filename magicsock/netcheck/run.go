package netcheck

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// runTime bounds a full run, quickTime any other.
	runTime   = 5 * time.Second
	quickTime = 4 * time.Second
	// fullWait, webWait and the two waits for STUN are how much longer what is not
	// there yet is waited for once enough is known.
	fullWait    = 3 * time.Second
	webWait     = 500 * time.Millisecond
	minSTUNWait = 150 * time.Millisecond
	maxSTUNWait = 800 * time.Millisecond
	// blockedTime is how long no STUN answer means that the web is asked, too.
	blockedTime = time.Second
)

// run is one run.
type run struct {
	c        *Checker
	full     bool
	previous *Report // may be nil
	began    time.Time
	tasks    sync.WaitGroup
	enough   chan struct{} // closed when no more STUN answers are waited for
	webDone  chan struct{} // closed when no relay is asked by HTTP any more

	telling sync.Mutex // one Progress at a time
	sending sync.Mutex // guards sent: requests are numbered in the order of leaving
	sent    int

	mu       sync.Mutex               // guards the fields below; taken before that of the Checker
	r        Report                   // as far as it was found; its relays stay in their places
	sides    [2]side                  // of IPv4 and IPv6
	relays   []tried                  // as r.Relays
	places   map[netip.AddrPort][]int // the relays at each STUN server that is asked
	waiting  int                      // servers that are being asked by STUN
	resolved bool                     // no more servers come
	grace    *time.Timer
	closed   bool // enough is
	hairpin  bool // is being tried, or was
	tls      bool // a relay proved its name
}

// side is what a run knows of one IP version.
type side struct {
	have          bool
	asked         map[netip.Addr]bool // servers: whether they answered
	left, refused bool                // a request could be sent, or not
}

// tried is what became of asking a relay.
type tried struct {
	silent    bool // by STUN, in all the time there is for it
	webFailed bool
}

// Run makes a report: full asks everything anew and of everyone, else the
// addresses and the latency of relays are looked at, and what was not asked stays
// as it was. It takes 5 s at most, less than one when the servers answer, and
// returns what was found by then or before ctx ended; the error is that of ctx.
// The report is never nil. One caller at a time.
func (c *Checker) Run(ctx context.Context, full bool) (*Report, error) {
	limit := quickTime
	if full {
		limit = runTime
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	u := &run{
		c: c, full: full, previous: c.Last(), began: time.Now(),
		enough: make(chan struct{}), webDone: make(chan struct{}),
		places: make(map[netip.AddrPort][]int),
	}
	u.begin()
	u.tell("asking %d relays and %d STUN servers", len(c.cfg.Relays), len(c.cfg.STUN))
	u.stun(limited)
	u.tasks.Go(func() { u.web(limited) })
	if full {
		u.tasks.Go(func() { u.captive(limited) })
		u.tasks.Go(func() { u.portmap(limited) })
	}
	finished := make(chan struct{})
	go func() {
		u.tasks.Wait()
		close(finished)
	}()
	u.await(limited, finished)
	cancel()
	<-finished
	return u.end(ctx.Err() != nil), ctx.Err()
}

// begin takes over what this run does not ask.
func (u *run) begin() {
	r := &u.r
	u.sides[0].have, u.sides[1].have = u.c.cfg.HaveV4(), u.c.cfg.HaveV6()
	r.Full, r.Mapped = u.full, []Mapping{}
	for i := range u.sides {
		u.sides[i].asked = make(map[netip.Addr]bool)
	}
	if p := u.previous; p != nil && !u.full {
		r.ICMPv4, r.ICMPv6, r.Hairpin, r.CaptivePortal, r.Portmap = p.ICMPv4, p.ICMPv6, p.Hairpin, p.CaptivePortal, p.Portmap
	}
	r.Relays = []RelayLatency{}
	for _, n := range u.c.cfg.Relays {
		if !n.STUNOnly {
			r.Relays = append(r.Relays, RelayLatency{URL: n.URL})
		}
	}
	u.relays = make([]tried, len(r.Relays))
}

// tell reports a step. No lock is held.
func (u *run) tell(format string, args ...any) {
	if u.c.cfg.Progress == nil {
		return
	}
	u.telling.Lock()
	defer u.telling.Unlock()
	u.c.cfg.Progress(Progress{Text: fmt.Sprintf(format, args...)})
}

// await waits until the run is over: all was answered, or enough was and the rest
// had its time.
func (u *run) await(ctx context.Context, finished <-chan struct{}) {
	select {
	case <-finished:
		return
	case <-ctx.Done():
		return
	case <-u.enough:
	}
	wait, done := webWait, (<-chan struct{})(u.webDone)
	if u.full {
		wait, done = fullWait, finished
	}
	u.mu.Lock()
	if len(u.r.Mapped) == 0 { // the web is all there is
		wait = quickTime
	}
	u.mu.Unlock()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// checkEnough ends the wait for STUN answers: at once when nobody is left, soon
// when both IP versions are clear. u.mu is held.
func (u *run) checkEnough() {
	if u.closed {
		return
	}
	if u.resolved && u.waiting == 0 {
		u.closeEnough()
		return
	}
	if u.grace != nil || len(u.r.Mapped) == 0 || !u.settled(0) || !u.settled(1) {
		return
	}
	u.grace = time.AfterFunc(u.patience(), func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.closeEnough()
	})
}

// closeEnough is called with u.mu held.
func (u *run) closeEnough() {
	if u.closed {
		return
	}
	u.closed = true
	if u.grace != nil {
		u.grace.Stop()
	}
	close(u.enough)
}

// settled says that more answers would tell nothing new about an IP version: two
// servers answered, or all there are, or it did not work last time either. u.mu is
// held.
func (u *run) settled(version int) bool {
	s := &u.sides[version]
	if !s.have {
		return true
	}
	answered := 0
	for _, yes := range s.asked {
		if yes {
			answered++
		}
	}
	if answered >= 2 || u.resolved && answered == len(s.asked) {
		return true
	}
	if p := u.previous; p != nil && !u.full && answered == 0 {
		return version == 0 && !p.IPv4 || version == 1 && !p.IPv6
	}
	return false
}

// patience is how much longer relays may take by what they took last time. u.mu is
// held.
func (u *run) patience() time.Duration {
	wait := minSTUNWait
	for i := range u.r.Relays {
		l := &u.r.Relays[i]
		old := u.previous.relay(l.URL)
		if l.STUNv4+l.STUNv6 == 0 {
			wait = max(wait, max(old.STUNv4, old.STUNv6)*3/2)
		}
	}
	return min(wait, maxSTUNWait)
}

// interim shows an address that is new, and a verdict on the NAT, before the run
// ends. u.mu is not held.
func (u *run) interim() {
	c := u.c
	u.mu.Lock()
	first := len(u.r.Mapped) == 1
	r := u.snapshot(true)
	c.mu.Lock()
	judged := r.MappingVariesV4 != Unknown && (c.last == nil || c.last.MappingVariesV4 != r.MappingVariesV4)
	same := c.last != nil && c.last.GlobalV4 == r.GlobalV4 && c.last.GlobalV6 == r.GlobalV6
	news := u.news()
	if news || judged { // else Last knows more than what has been answered so far
		c.last = &r
	}
	c.mu.Unlock()
	u.mu.Unlock()
	if (first || judged || news && !same) && c.cfg.Addrs != nil {
		c.cfg.Addrs()
	}
}

// news says that an address was seen that the previous report does not have. A NAT
// that shows each server another one is no news. u.mu is held.
func (u *run) news() bool {
	return u.previous == nil || slices.ContainsFunc(u.r.Mapped, func(m Mapping) bool { return !u.previous.has(m.Addr) })
}

// snapshot returns the report as it stands; partly takes over what may still be
// answered. u.mu is held.
func (u *run) snapshot(partly bool) Report {
	r := u.r
	r.Mapped, r.Relays = slices.Clone(r.Mapped), slices.Clone(r.Relays)
	r.At = time.Now()
	r.Took = r.At.Sub(u.began)
	r.CanSendV4, r.CanSendV6 = u.sides[0].canSend(), u.sides[1].canSend()
	if p := u.previous; p != nil {
		r.Preferred = p.Preferred
		for _, is4 := range []bool{true, false} {
			if partly && len(family(r.Mapped, is4)) == 0 {
				r.Mapped = append(r.Mapped, family(p.Mapped, is4)...)
			}
		}
	}
	u.carryRelays(&r, partly)
	u.c.mu.Lock()
	observed := slices.Clone(u.c.observed)
	u.c.mu.Unlock()
	r.judge(observed, u.previous, r.At)
	return r
}

func (s *side) canSend() bool { return s.have && (s.left || !s.refused) }

// carryRelays fills in what relays answered before where this run did not ask, or
// not for long enough to say that they are gone. u.mu is held.
func (u *run) carryRelays(r *Report, partly bool) {
	for i := range r.Relays {
		l, tried := &r.Relays[i], u.relays[i]
		old := u.previous.relay(l.URL)
		usable := (!u.full || partly) && old.Best() > 0 && r.At.Sub(old.at) < historyTime
		gone := tried.webFailed || tried.silent && old.STUNv4+old.STUNv6 > 0
		switch {
		case l.Best() > 0:
			l.at, l.Err = r.At, ""
			if usable {
				l.HTTPS, l.ICMP = either(l.HTTPS, old.HTTPS), either(l.ICMP, old.ICMP)
			}
		case usable && !gone:
			*l = old
		case l.Err == "":
			l.Err = errNoAnswer.Error()
		}
	}
}

func either(a, b time.Duration) time.Duration {
	if a > 0 {
		return a
	}
	return b
}

// end makes the report that counts; early says that the run was cut off.
func (u *run) end(early bool) *Report {
	c := u.c
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closeEnough() // nobody waits for it any more
	if u.tls && u.r.CaptivePortal.IsTrue() {
		u.r.CaptivePortal = False // whatever answers there, it lets us through
	}
	r := u.snapshot(early)
	c.mu.Lock()
	defer c.mu.Unlock()
	if u.previous.elsewhere(&r) {
		clear(c.history)
	}
	c.remember(u.r.Relays, r.At)
	r.Preferred = c.prefer(&r)
	c.last = &r
	return &r
}
