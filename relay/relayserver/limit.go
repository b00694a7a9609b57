package relayserver

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/nodetun/nodetun/internal/ratelimit"
	"github.com/nodetun/nodetun/internal/webserver"
)

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
	pace        ratelimit.Bucket // Accept's own
	told        ratelimit.Bucket // Accept's own: how often who is too much is told so

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
			time.Sleep(l.pace.Spend(time.Now(), 1, l.rate, l.burst))
		}
		c, err := l.Listener.Accept()
		if err != nil {
			l.failed(err)
			return nil, err
		}
		addr := webserver.AddrOf(c.RemoteAddr())
		p := ratelimit.PrefixOf(addr)
		if l.proxied != nil && l.proxied(addr) {
			p = netip.Prefix{}
		}
		if l.enter(p) {
			return &limitedConn{Conn: l.wrap(c), leave: sync.OnceFunc(func() { l.leave(p) })}, nil
		}
		l.refused()
		if !l.told.Take(time.Now(), toldRate, toldRate) || !l.enterOver() {
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
