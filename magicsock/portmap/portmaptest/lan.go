package portmaptest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// LAN is a network in memory, for tests with a clock of their own (testing/synctest).
// What is sent arrives at once; nothing is lost but what nobody listens for. Make it
// with NewLAN.
type LAN struct {
	mu      sync.Mutex // guards the fields below
	sockets map[netip.AddrPort]*Socket
	groups  map[netip.AddrPort][]*Socket
	servers map[netip.AddrPort]*listener
	last    uint16 // port that was given to whoever asked for any
}

// NewLAN makes an empty network.
func NewLAN() *LAN {
	return &LAN{
		sockets: make(map[netip.AddrPort]*Socket), groups: make(map[netip.AddrPort][]*Socket),
		servers: make(map[netip.AddrPort]*listener), last: 49151,
	}
}

// portLocked makes port 0 any.
func (l *LAN) portLocked(a netip.AddrPort) netip.AddrPort {
	if a.Port() != 0 {
		return a
	}
	l.last++
	return netip.AddrPortFrom(a.Addr(), l.last)
}

// Listen opens a UDP socket; port 0 is any.
func (l *LAN) Listen(local netip.AddrPort) (*Socket, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	local = l.portLocked(local)
	if l.sockets[local] != nil {
		return nil, &net.OpError{Op: "listen", Net: "udp", Addr: net.UDPAddrFromAddrPort(local), Err: os.ErrExist}
	}
	s := newSocket(l, local)
	l.sockets[local] = s
	return s, nil
}

// ListenGroup opens a UDP socket that hears a group.
func (l *LAN) ListenGroup(group netip.AddrPort) (*Socket, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := newSocket(l, group)
	l.groups[group] = append(l.groups[group], s)
	return s, nil
}

func (l *LAN) leave(s *Socket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sockets[s.local] == s {
		delete(l.sockets, s.local)
		return
	}
	for i, member := range l.groups[s.local] {
		if member == s {
			l.groups[s.local] = append(l.groups[s.local][:i:i], l.groups[s.local][i+1:]...)
			return
		}
	}
}

func (l *LAN) carry(from, to netip.AddrPort, payload []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := l.groups[to]
	if s := l.sockets[to]; s != nil {
		list = append(list[:len(list):len(list)], s)
	}
	for _, s := range list {
		s.put(datagram{from, append([]byte(nil), payload...)})
	}
}

// Socket is a UDP socket of a LAN.
type Socket struct {
	lan   *LAN
	local netip.AddrPort

	mu       sync.Mutex // guards the fields below; LAN.mu is taken before
	queue    []datagram
	deadline time.Time
	closed   bool
	changed  chan struct{} // closed, and another, when one of them changes
}

type datagram struct {
	from    netip.AddrPort
	payload []byte
}

func newSocket(l *LAN, local netip.AddrPort) *Socket {
	return &Socket{lan: l, local: local, changed: make(chan struct{})}
}

func (s *Socket) changedLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Socket) put(d datagram) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = append(s.queue, d)
	s.changedLocked()
}

// ReadFromUDPAddrPort waits for a datagram.
func (s *Socket) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	for {
		d, wait, err := s.next()
		switch {
		case err != nil:
			return 0, netip.AddrPort{}, err
		case wait == nil:
			return copy(b, d.payload), d.from, nil
		}
		wait()
	}
}

// next takes a datagram, or returns what to wait for.
func (s *Socket) next() (d datagram, wait func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := time.Until(s.deadline)
	switch {
	case s.closed:
		return d, nil, net.ErrClosed
	case !s.deadline.IsZero() && left <= 0:
		return d, nil, os.ErrDeadlineExceeded
	case len(s.queue) > 0:
		d, s.queue = s.queue[0], s.queue[1:]
		return d, nil, nil
	case s.deadline.IsZero():
		left = time.Hour
	}
	changed := s.changed
	return d, func() {
		timer := time.NewTimer(left)
		defer timer.Stop()
		select {
		case <-changed:
		case <-timer.C:
		}
	}, nil
}

// WriteToUDPAddrPort sends a datagram.
func (s *Socket) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return 0, net.ErrClosed
	}
	s.lan.carry(s.local, to, b)
	return len(b), nil
}

// SetReadDeadline sets when reads give up; zero is never.
func (s *Socket) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline = t
	s.changedLocked()
	return nil
}

// LocalAddr is the address that it has, or its group.
func (s *Socket) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(s.local) }

// Close ends reads and writes.
func (s *Socket) Close() error {
	s.lan.leave(s)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.changedLocked()
	return nil
}

// ListenTCP takes connections; port 0 is any.
func (l *LAN) ListenTCP(local netip.AddrPort) net.Listener {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &listener{lan: l, local: l.portLocked(local), conns: make(chan net.Conn), closed: make(chan struct{})}
	l.servers[s.local] = s
	return s
}

// DialTCP connects from an address.
func (l *LAN) DialTCP(ctx context.Context, self netip.Addr, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("portmaptest: %w", err)
	}
	l.mu.Lock()
	s := l.servers[to]
	from := l.portLocked(netip.AddrPortFrom(self, 0))
	l.mu.Unlock()
	refused := &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: os.ErrNotExist}
	if s == nil {
		return nil, refused
	}
	near, far := net.Pipe()
	select {
	case s.conns <- conn{far, to, from}:
		return conn{near, from, to}, nil
	case <-s.closed:
		return nil, refused
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type listener struct {
	lan    *LAN
	local  netip.AddrPort
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (s *listener) Accept() (net.Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

func (s *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(s.local) }

func (s *listener) Close() error {
	s.once.Do(func() {
		s.lan.mu.Lock()
		defer s.lan.mu.Unlock()
		delete(s.lan.servers, s.local)
		close(s.closed)
	})
	return nil
}

// conn is a connection that knows its addresses.
type conn struct {
	net.Conn
	local, remote netip.AddrPort
}

func (c conn) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(c.local) }
func (c conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }
