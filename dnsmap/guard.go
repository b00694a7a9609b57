package dnsmap

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// ratePerSecond and rateBurst together let at most 2000 questions pass in
	// any second (S20).
	ratePerSecond = 1800
	rateBurst     = 200

	// localMaxAge is how long a list of own addresses is trusted, localMinAge
	// how often an unknown source may cause it to be read again.
	localMaxAge = 5 * time.Second
	localMinAge = time.Second
)

// guard decides who is heard at all (S20), before anything is parsed.
type guard struct {
	local func(netip.Addr) bool
	rate  bucket
}

func newGuard(local func(netip.Addr) bool) *guard {
	return &guard{local: local, rate: bucket{tokens: rateBurst}}
}

// hears reports whether a source is an address of this host.
func (g *guard) hears(from net.Addr) bool {
	var ap netip.AddrPort
	switch a := from.(type) {
	case *net.UDPAddr:
		ap = a.AddrPort()
	case *net.TCPAddr:
		ap = a.AddrPort()
	}
	addr := ap.Addr().Unmap().WithZone("")
	return addr.IsValid() && g.local(addr)
}

// bucket is a token bucket.
type bucket struct {
	mu     sync.Mutex // guards the fields below
	tokens float64
	last   time.Time
}

func (b *bucket) allow() bool { return b.allowAt(time.Now()) }

func (b *bucket) allowAt(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.last.IsZero() {
		b.tokens = min(rateBurst, b.tokens+ratePerSecond*max(0, now.Sub(b.last).Seconds()))
	}
	b.last = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// guardedUDP is a packet socket that does not see the packets of strangers and
// those above the rate.
type guardedUDP struct {
	net.PacketConn
	guard *guard
}

// ReadFrom returns the next packet that may be answered.
func (u guardedUDP) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := u.PacketConn.ReadFrom(b)
		if err != nil || u.guard.hears(from) && u.guard.rate.allow() {
			return n, from, err
		}
	}
}

// guardedTCP is a listener that closes the connections of strangers and those
// above the limit.
type guardedTCP struct {
	net.Listener
	guard *guard
	slots chan struct{}
}

func newGuardedTCP(l net.Listener, g *guard, limit int) *guardedTCP {
	return &guardedTCP{Listener: l, guard: g, slots: make(chan struct{}, limit)}
}

// Accept returns the next connection that may be answered.
func (l *guardedTCP) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if !l.guard.hears(c.RemoteAddr()) {
			c.Close()
			continue
		}
		select {
		case l.slots <- struct{}{}:
			return &guardedConn{Conn: c, slots: l.slots}, nil
		default:
			c.Close()
		}
	}
}

// guardedConn gives its slot back when closed, and does not wait for ever for
// a client that reads nothing.
type guardedConn struct {
	net.Conn
	slots chan struct{}
	once  sync.Once
}

func (c *guardedConn) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(tcpTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

func (c *guardedConn) Close() error {
	c.once.Do(func() { <-c.slots })
	return c.Conn.Close()
}

// localAddrs remembers the addresses of this host for a few seconds.
type localAddrs struct {
	mu   sync.Mutex // guards the fields below
	set  map[netip.Addr]struct{}
	read time.Time
}

func newLocalAddrs() *localAddrs { return &localAddrs{} }

func (l *localAddrs) has(a netip.Addr) bool {
	if a.IsLoopback() {
		return true // the kernel lets none in from outside
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.read) > localMaxAge {
		l.refreshLocked()
	}
	if _, ok := l.set[a]; ok {
		return true
	}
	if time.Since(l.read) > localMinAge {
		l.refreshLocked()
	}
	_, ok := l.set[a]
	return ok
}

func (l *localAddrs) refreshLocked() {
	l.read = time.Now()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return
	}
	l.set = make(map[netip.Addr]struct{}, len(addrs))
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			l.set[p.Addr().Unmap()] = struct{}{}
		}
	}
}
