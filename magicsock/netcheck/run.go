package netcheck

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nodetun/nodetun/identity"
)

const (
	// runTime bounds a run, quickTime one that is not full.
	runTime   = 5 * time.Second
	quickTime = 2500 * time.Millisecond
	// enoughTime is how long other servers may still answer once enough did.
	enoughTime = 150 * time.Millisecond
	// blockedTime is how long no STUN answer means that the web is asked, too.
	blockedTime = time.Second
	lookupTime  = 2 * time.Second
)

// run is one run.
type run struct {
	c        *Checker
	full     bool
	previous *Report
	began    time.Time
	tasks    sync.WaitGroup

	mu       sync.Mutex // guards the fields below
	r        Report
	sum      int           // servers to ask by STUN, as far as known
	done     int           // those that answered or never will
	resolved bool          // sum is final
	enough   chan struct{} // closed when no more STUN answers are waited for
	closed   bool
	hairpin  bool // is being tried
}

// Run makes a report: full asks everything, else the addresses and the latency of
// relays. It takes 5 s at most and returns what was found by then, or before ctx
// ended; the error is that of ctx. One caller at a time.
func (c *Checker) Run(ctx context.Context, full bool) (*Report, error) {
	limit := quickTime
	if full {
		limit = runTime
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	u := &run{c: c, full: full, previous: c.Last(), began: time.Now(), enough: make(chan struct{})}
	u.begin()
	u.tell("asking %d relays and %d STUN servers", len(c.cfg.Relays), len(c.cfg.STUN))
	u.stun(limited)
	if full {
		u.tasks.Go(func() { u.captive(limited) })
		u.tasks.Go(func() { u.portmap(limited) })
	}
	u.tasks.Go(func() { u.web(limited) })
	if !full {
		select {
		case <-u.enough:
		case <-limited.Done():
		}
		cancel()
	}
	u.tasks.Wait()
	return u.end(), ctx.Err()
}

// begin takes over what this run does not ask.
func (u *run) begin() {
	r, have4, have6 := &u.r, u.c.cfg.HaveV4(), u.c.cfg.HaveV6()
	r.Full, r.CanSendV4, r.CanSendV6 = u.full, have4, have6
	if p := u.previous; p != nil && !u.full {
		r.ICMPv4, r.ICMPv6, r.Hairpin, r.CaptivePortal, r.Portmap = p.ICMPv4, p.ICMPv6, p.Hairpin, p.CaptivePortal, p.Portmap
	}
	for _, n := range u.c.cfg.Relays {
		if !n.STUNOnly {
			r.Relays = append(r.Relays, RelayLatency{URL: n.URL})
		}
	}
}

func (u *run) tell(format string, args ...any) {
	if u.c.cfg.Progress != nil {
		u.c.cfg.Progress(Progress{Text: fmt.Sprintf(format, args...)})
	}
}

// target is one STUN server by name.
type target struct {
	host  string
	port  uint16
	name  string
	relay int // its place in Report.Relays, -1 for none
}

func (u *run) targets() []target {
	var list []target
	place := 0
	for _, n := range u.c.cfg.Relays {
		t := target{host: n.URL.Parsed().Hostname(), port: n.STUNPort, name: n.URL.String(), relay: -1}
		if t.port == 0 {
			t.port = defaultSTUNPort
		}
		if !n.STUNOnly {
			t.relay = place
			place++
		}
		list = append(list, t)
	}
	for _, s := range u.c.cfg.STUN {
		host, port, err := net.SplitHostPort(s)
		number, portErr := strconv.ParseUint(port, 10, 16)
		if err == nil && portErr == nil && number > 0 {
			list = append(list, target{host: host, port: uint16(number), name: s, relay: -1})
		}
	}
	return list
}

// stun asks all STUN servers by both families.
func (u *run) stun(ctx context.Context) {
	list := u.targets()
	var resolving sync.WaitGroup
	asked := make(map[netip.AddrPort]bool) // guarded by u.mu
	for _, t := range list {
		resolving.Add(1)
		u.tasks.Go(func() {
			defer resolving.Done()
			for _, server := range u.resolve(ctx, t) {
				u.mu.Lock()
				twice := asked[server]
				asked[server] = true
				if !twice {
					u.sum++
					u.r.Asked = true
				}
				u.mu.Unlock()
				if !twice {
					u.tasks.Go(func() { u.askServer(ctx, t, server) })
				}
			}
		})
	}
	u.tasks.Go(func() {
		resolving.Wait()
		u.mu.Lock()
		u.resolved = true
		u.checkEnough()
		u.mu.Unlock()
	})
}

// resolve returns one address of each family that the host has.
func (u *run) resolve(ctx context.Context, t target) []netip.AddrPort {
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	addrs, err := lookup(ctx, &u.c.cfg, t.host)
	if err != nil {
		u.c.cfg.Logger.Debug("netcheck: lookup", "host", t.host, "err", err)
		u.relayError(t.relay, err)
		return nil
	}
	var out []netip.AddrPort
	for _, want4 := range []bool{true, false} {
		have := u.c.cfg.HaveV6
		if want4 {
			have = u.c.cfg.HaveV4
		}
		i := slices.IndexFunc(addrs, func(a netip.Addr) bool { return a.Unmap().Is4() == want4 })
		if i >= 0 && have() {
			out = append(out, netip.AddrPortFrom(addrs[i].Unmap(), t.port))
		}
	}
	return out
}

// lookup resolves a host unless it is an address.
func lookup(ctx context.Context, cfg *Config, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	return cfg.Lookup(ctx, host)
}

func (u *run) relayError(place int, err error) {
	if place < 0 {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.r.Relays[place].Err = err.Error()
}

// askServer asks one server and uses its answer.
func (u *run) askServer(ctx context.Context, t target, server netip.AddrPort) {
	sent := time.Now()
	a, ok := u.c.exchange(ctx, server, u.c.cfg.Send)
	u.mu.Lock()
	u.done++
	if ok {
		u.r.Mapped = append(u.r.Mapped, Mapping{Server: server, Name: t.name, Addr: a.addr, Latency: a.latency, sent: sent})
		if t.relay >= 0 {
			if l := &u.r.Relays[t.relay]; server.Addr().Is4() {
				l.STUNv4 = a.latency
			} else {
				l.STUNv6 = a.latency
			}
		}
	}
	u.checkEnough()
	u.mu.Unlock()
	if ok {
		u.tell("%s sees us as %s (%.1f ms)", t.name, a.addr, float64(a.latency)/float64(time.Millisecond))
		u.interim(ctx, a.addr)
	}
}

// checkEnough ends the wait for STUN answers: at once when nobody is left, soon
// when two servers of each family answered. u.mu is held.
func (u *run) checkEnough() {
	if u.closed {
		return
	}
	if u.resolved && u.done >= u.sum {
		u.closed = true
		close(u.enough)
		return
	}
	for _, is4 := range []bool{true, false} {
		have := u.r.CanSendV6
		if is4 {
			have = u.r.CanSendV4
		}
		if have && len(family(u.r.Mapped, is4)) < 2 {
			return
		}
	}
	if len(u.r.Mapped) == 0 {
		return
	}
	u.closed = true
	time.AfterFunc(enoughTime, func() { close(u.enough) })
}

// interim shows a first or another address before the run ends, and begins what
// needs it.
func (u *run) interim(ctx context.Context, addr netip.AddrPort) {
	c := u.c
	u.mu.Lock()
	tryHairpin := u.full && addr.Addr().Is4() && !u.hairpin
	u.hairpin = u.hairpin || tryHairpin
	r := u.snapshot()
	u.mu.Unlock()
	if tryHairpin {
		u.tasks.Go(func() { u.tryHairpin(ctx, addr) })
	}
	old := u.previous
	if old != nil && (!r.IPv4 || r.GlobalV4 == old.GlobalV4) && (!r.IPv6 || r.GlobalV6 == old.GlobalV6) {
		return
	}
	if old != nil { // what is not known yet stays
		if !r.IPv4 {
			r.GlobalV4 = old.GlobalV4
		}
		if !r.IPv6 {
			r.GlobalV6 = old.GlobalV6
		}
	}
	c.mu.Lock()
	same := c.last != nil && c.last.GlobalV4 == r.GlobalV4 && c.last.GlobalV6 == r.GlobalV6
	c.last = &r
	c.mu.Unlock()
	if !same && c.cfg.Addrs != nil {
		c.cfg.Addrs()
	}
}

// snapshot returns the report as it stands. u.mu is held.
func (u *run) snapshot() Report {
	r := u.r
	r.Mapped, r.Relays = slices.Clone(r.Mapped), slices.Clone(r.Relays)
	r.At = time.Now()
	r.Took = r.At.Sub(u.began)
	if u.previous != nil {
		r.Preferred = u.previous.Preferred
	}
	u.c.mu.Lock()
	observed := slices.Clone(u.c.observed)
	u.c.mu.Unlock()
	r.judge(observed, u.previous, r.At)
	return r
}

// end makes the report that counts.
func (u *run) end() *Report {
	c := u.c
	u.mu.Lock()
	r := u.snapshot()
	u.mu.Unlock()
	for i := range r.Relays {
		l := &r.Relays[i]
		if l.Best() > 0 {
			l.Err = ""
		} else if l.Err == "" {
			l.Err = "no answer"
		}
	}
	c.remember(&r)
	var previous identity.RelayURL
	if u.previous != nil {
		previous = u.previous.Preferred
	}
	r.Preferred = c.prefer(&r, previous)
	c.mu.Lock()
	c.last = &r
	c.mu.Unlock()
	return &r
}
