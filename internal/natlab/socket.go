package natlab

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/nodetun/nodetun/magicsock"
	"github.com/nodetun/nodetun/magicsock/udpconn"
)

// maxWaiting is how many packets a socket holds.
const maxWaiting = 1024

// socket is a UDP socket of one IP version. Lab.mu guards all fields that change.
type socket struct {
	host     *Host
	port     uint16
	is6      bool
	sink     func(packet) // takes packets instead of a reader, with Lab.mu held
	arrived  *sync.Cond   // of Lab.mu: look again
	waiting  []packet
	deadline time.Time
	alarm    *time.Timer
	closed   bool
	stats    udpconn.Stats
	real     *net.UDPConn // nil until SyscallConn
}

var _ magicsock.Socket = (*socket)(nil)

func newSocket(h *Host, port uint16, is6 bool) *socket {
	return &socket{host: h, port: port, is6: is6, arrived: sync.NewCond(&h.lab.mu)}
}

// put takes a packet in. Lab.mu is held.
func (s *socket) put(p packet) {
	switch {
	case s.sink != nil:
		s.sink(p)
	case len(s.waiting) < maxWaiting:
		s.waiting = append(s.waiting, p)
		s.arrived.Broadcast()
	}
}

// Read waits for packets, see udpconn.Conn.
func (s *socket) Read(ms []udpconn.Message) (int, error) {
	s.host.lab.mu.Lock()
	defer s.host.lab.mu.Unlock()
	for {
		n, err := s.take(ms)
		if n > 0 || err != nil {
			return n, err
		}
		s.arrived.Wait()
	}
}

// TryRead is Read that does not wait.
func (s *socket) TryRead(ms []udpconn.Message) (int, error) {
	s.host.lab.mu.Lock()
	defer s.host.lab.mu.Unlock()
	return s.take(ms)
}

// take fills ms with what is there. Lab.mu is held.
func (s *socket) take(ms []udpconn.Message) (int, error) {
	switch {
	case s.closed:
		return 0, net.ErrClosed
	case !s.deadline.IsZero() && !time.Now().Before(s.deadline):
		return 0, os.ErrDeadlineExceeded
	}
	n := min(len(ms), len(s.waiting))
	for i, p := range s.waiting[:n] {
		ms[i].N = copy(ms[i].Buf, p.payload)
		ms[i].Seg, ms[i].From, ms[i].TOS = ms[i].N, p.from, p.ecn
	}
	s.waiting = slices.Delete(s.waiting, 0, n)
	return n, nil
}

// Write sends packets of seg bytes, see udpconn.Conn.
func (s *socket) Write(b []byte, seg int, ecn uint8, to netip.AddrPort) error {
	s.host.lab.mu.Lock()
	defer s.host.lab.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	if seg <= 0 {
		seg = len(b)
	}
	for part := range slices.Chunk(b, seg) {
		if err := s.host.send(s.port, to, part, ecn); err != nil {
			return err
		}
	}
	return nil
}

// LocalAddr is the bound address: all of the host's.
func (s *socket) LocalAddr() netip.AddrPort {
	any := netip.IPv4Unspecified()
	if s.is6 {
		any = netip.IPv6Unspecified()
	}
	return netip.AddrPortFrom(any, s.port)
}

// Is6 says that it is an IPv6 socket.
func (s *socket) Is6() bool { return s.is6 }

// SetReadDeadline is that of net.Conn.
func (s *socket) SetReadDeadline(t time.Time) error {
	s.host.lab.mu.Lock()
	defer s.host.lab.mu.Unlock()
	s.deadline = t
	if s.alarm != nil {
		s.alarm.Stop()
	}
	if t.After(time.Now()) {
		s.alarm = time.AfterFunc(time.Until(t), s.arrived.Broadcast)
	}
	s.arrived.Broadcast()
	return nil
}

// SyscallConn returns a real socket on loopback, which quic-go wants to set options
// on. Nothing is ever sent or received by it.
func (s *socket) SyscallConn() (syscall.RawConn, error) {
	s.host.lab.mu.Lock()
	defer s.host.lab.mu.Unlock()
	if s.closed {
		return nil, net.ErrClosed
	}
	if s.real == nil {
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			return nil, err
		}
		s.real = conn
	}
	return s.real.SyscallConn()
}

// Rebind loses what was not read.
func (s *socket) Rebind() error {
	s.host.lab.mu.Lock()
	defer s.host.lab.mu.Unlock()
	s.waiting = nil
	return nil
}

// SetSource does nothing: the sockets have one address.
func (s *socket) SetSource(netip.AddrPort, netip.Addr) {}

// Unbound is nil: these sockets stay.
func (s *socket) Unbound() error { return nil }

// Stats are always zero.
func (s *socket) Stats() udpconn.Stats { return s.stats }

// Close wakes the reader for good.
func (s *socket) Close() error {
	s.host.lab.mu.Lock()
	defer s.host.lab.mu.Unlock()
	s.closed = true
	if s.alarm != nil {
		s.alarm.Stop()
	}
	if s.real != nil {
		_ = s.real.Close()
	}
	open := s.host.sockets[s.port]
	s.host.sockets[s.port] = slices.DeleteFunc(open, func(o *socket) bool { return o == s })
	s.arrived.Broadcast()
	return nil
}
