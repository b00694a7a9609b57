package relayserver

import (
	"hash/maphash"
	"net"
	"net/netip"
	"sync"
	"time"
)

// prefixOf returns the prefix by which an address is limited: what one
// customer usually has.
func prefixOf(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 24
	if a.Is6() {
		bits = 56
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// addrOf returns the IP address of a connection's end; one without (a pipe)
// counts as the zero address.
func addrOf(a net.Addr) netip.Addr {
	if ap, err := netip.ParseAddrPort(a.String()); err == nil {
		return ap.Addr()
	}
	return netip.Addr{}
}

// bucket is a token bucket; the holder guards it.
type bucket struct {
	tokens float64
	last   time.Time
}

// fill adds what came in since the last call at rate a second, up to burst. A
// new bucket is full.
func (b *bucket) fill(now time.Time, rate, burst float64) {
	if b.last.IsZero() {
		b.tokens = burst
	} else {
		b.tokens = min(burst, b.tokens+rate*now.Sub(b.last).Seconds())
	}
	b.last = now
}

// take takes one token if there is one.
func (b *bucket) take(now time.Time, rate, burst float64) bool {
	b.fill(now, rate, burst)
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// spend takes n tokens and returns how long it takes to earn those back that
// were not there.
func (b *bucket) spend(now time.Time, n, rate, burst float64) time.Duration {
	b.fill(now, rate, burst)
	b.tokens -= n
	if b.tokens >= 0 {
		return 0
	}
	return time.Duration(-b.tokens / rate * float64(time.Second))
}

// sharedBucket is a token bucket of many.
type sharedBucket struct {
	mu sync.Mutex // guards b
	b  bucket
}

func (s *sharedBucket) spend(now time.Time, n, rate, burst float64) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.spend(now, n, rate, burst)
}

// rates is a table of fixed size of buckets, one for a prefix each; prefixes
// that hash alike share one, and nobody outside can tell which do.
type rates struct {
	rate float64 // a second, and the burst; 0: no limit
	seed maphash.Seed

	mu      sync.Mutex // guards the buckets
	buckets [4096]bucket
}

func newRates(perSecond int) *rates {
	return &rates{rate: float64(perSecond), seed: maphash.MakeSeed()}
}

// allow takes one token for the address.
func (r *rates) allow(a netip.Addr, now time.Time) bool {
	if r.rate == 0 {
		return true
	}
	i := maphash.Comparable(r.seed, prefixOf(a)) % uint64(len(r.buckets))
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buckets[i].take(now, r.rate, r.rate)
}

// limitedListener bounds the connections: in all, from one prefix, and how many come
// in a second.
type limitedListener struct {
	net.Listener
	total, max  int     // in all and from one prefix; 0: no limit
	rate, burst float64 // of accepted ones a second; 0: no limit
	refused     func()
	proxied     func(netip.Addr) bool // those count by the addresses behind them
	failed      func(error)           // to accept
	wrap        func(net.Conn) net.Conn
	pace        bucket // Accept's own
	told        bucket // Accept's own: how often who is too much is told so

	mu    sync.Mutex // guards the fields below
	count int
	over  int // open and too much
	open  map[netip.Prefix]int
}

// Accept closes what is too much and waits for the next.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		if l.rate > 0 {
			// Who has to wait waits in the system's queue. It is less than a second.
			time.Sleep(l.pace.spend(time.Now(), 1, l.rate, l.burst))
		}
		c, err := l.Listener.Accept()
		if err != nil {
			l.failed(err)
			return nil, err
		}
		addr := addrOf(c.RemoteAddr())
		p := prefixOf(addr)
		if l.proxied != nil && l.proxied(addr) {
			p = netip.Prefix{}
		}
		if l.enter(p) {
			return &limitedConn{Conn: l.wrap(c), leave: sync.OnceFunc(func() { l.leave(p) })}, nil
		}
		l.refused()
		if !l.told.take(time.Now(), toldRate, toldRate) || !l.enterOver() {
			_ = c.Close()
			continue
		}
		return &limitedConn{Conn: l.wrap(c), leave: sync.OnceFunc(l.leaveOver), over: true}, nil
	}
}

// Of those that are too much so many a second, and at one time, are told so; it takes a
// TLS handshake each.
const (
	toldRate = 8
	toldMax  = 32
)

func (l *limitedListener) enterOver() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over >= toldMax {
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
	if l.max > 0 && p.IsValid() && l.open[p] >= l.max || l.total > 0 && l.count >= l.total {
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

// limitedConn gives its place back when it is closed.
type limitedConn struct {
	net.Conn
	leave func()
	over  bool // it is too much, and is to be told so
}

func (c *limitedConn) Close() error {
	c.leave()
	return c.Conn.Close()
}

func (c *limitedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}
