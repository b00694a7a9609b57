package webserver

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/nodetun/nodetun/internal/ratelimit"
)

// Limits bounds the connections that a listener accepts. Zero means no bound.
type Limits struct {
	// Total and PerPrefix are open, in all and from one IPv4 /24 or IPv6 /56, from which
	// no more than that, and 64 at the least, come in a second.
	Total, PerPrefix int
	Rate, Burst      float64 // of those that are let in, a second and at once
	// Proxied are those that count by the addresses behind them. May be nil.
	Proxied func(netip.Addr) bool
	// Refused is called for each that is too much, Failed for an error of Accept. Both
	// may be nil.
	Refused func()
	Failed  func(error)
	// Tell has a few of those that are too much accepted all the same, to be told so:
	// they are marked.
	Tell bool
	// Wrap makes of a connection what the place holds. May be nil.
	Wrap func(net.Conn) net.Conn
}

// Listener makes a listener with these bounds.
func (l Limits) Listener(inner net.Listener) net.Listener {
	if l.Refused == nil {
		l.Refused = func() {}
	}
	if l.Failed == nil {
		l.Failed = func(error) {}
	}
	if l.Proxied == nil {
		l.Proxied = func(netip.Addr) bool { return false }
	}
	if l.Wrap == nil {
		l.Wrap = func(c net.Conn) net.Conn { return c }
	}
	return &limitedListener{Listener: inner, Limits: l, prefixes: ratelimit.NewTable(l.perSecond()), open: make(map[netip.Prefix]int)}
}

// perSecond is how many may come from one prefix.
func (l *Limits) perSecond() int {
	if l.PerPrefix == 0 {
		return 0
	}
	return max(l.PerPrefix, 64)
}

type limitedListener struct {
	net.Listener
	Limits
	prefixes *ratelimit.Table // how often each comes
	pace     ratelimit.Bucket // Accept's own
	told     ratelimit.Bucket // Accept's own: how often who is too much is told so

	mu    sync.Mutex // guards the fields below
	count int
	over  int // open and too much
	open  map[netip.Prefix]int
}

// Accept closes what is too much and waits for the next.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			l.Failed(err)
			return nil, err
		}
		addr := AddrOf(c.RemoteAddr())
		p := ratelimit.PrefixOf(addr)
		if l.Proxied(addr) {
			p = netip.Prefix{}
		}
		if p.IsValid() && !l.prefixes.Allow(addr, time.Now()) {
			l.Refused()
			abort(c)
			continue
		}
		if l.enter(p) {
			if l.Rate > 0 {
				// The others wait in the system's queue, for less than a second. Those that
				// were turned away cost them nothing.
				time.Sleep(l.pace.Spend(time.Now(), 1, l.Rate, l.Burst))
			}
			return &LimitedConn{Conn: l.Wrap(c), leave: sync.OnceFunc(func() { l.leave(p) })}, nil
		}
		l.Refused()
		if !l.Tell || !l.told.Take(time.Now(), toldRate, toldRate) || !l.enterOver() {
			_ = c.Close()
			continue
		}
		return &LimitedConn{Conn: l.Wrap(c), leave: sync.OnceFunc(l.leaveOver), Over: true}, nil
	}
}

// abort closes a connection so that the kernel keeps nothing of it.
func abort(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// MaxTold is how many of those that are too much are told so at one time, toldRate how many
// in a second; it takes a TLS handshake each.
const (
	MaxTold  = 32
	toldRate = 8
)

func (l *limitedListener) enterOver() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over >= MaxTold {
		return false
	}
	l.over++
	return true
}

func (l *limitedListener) leaveOver() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over--
}

// enter counts a connection in; the zero prefix stands for proxies, which have no limit of
// their own.
func (l *limitedListener) enter(p netip.Prefix) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.PerPrefix > 0 && p.IsValid() && l.open[p] >= l.PerPrefix || l.Total > 0 && l.count >= l.Total {
		return false
	}
	l.count++
	l.open[p]++
	return true
}

func (l *limitedListener) leave(p netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count--
	if l.open[p]--; l.open[p] <= 0 {
		delete(l.open, p)
	}
}

// LimitedConn gives its place back when it is closed.
type LimitedConn struct {
	net.Conn
	// Over says that it is too much, and is to be told so.
	Over bool

	leave func()
	late  *time.Timer // nil: it may stay
}

// CloseAfter closes the connection after a while unless Keep is called before. It is called
// before anything else.
func (c *LimitedConn) CloseAfter(d time.Duration) {
	c.late = time.AfterFunc(d, func() { _ = c.end() })
}

// CloseLater is CloseAfter once more, from now on.
func (c *LimitedConn) CloseLater(d time.Duration) {
	if c.Keep() && c.late != nil {
		c.late.Reset(d)
	}
}

// Keep takes CloseAfter back, and reports false if it is too late for that.
func (c *LimitedConn) Keep() bool { return c.late == nil || c.late.Stop() }

// Close implements net.Conn.
func (c *LimitedConn) Close() error {
	c.Keep()
	return c.end()
}

func (c *LimitedConn) end() error {
	c.leave()
	return c.Conn.Close()
}

// CloseWrite ends what is sent, where that can be done alone.
func (c *LimitedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}
