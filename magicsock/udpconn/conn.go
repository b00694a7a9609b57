package udpconn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// MaxMessage is the size of a buffer that holds any message: what the kernel
// joins at most, and more than any single datagram.
const MaxMessage = 64 << 10

// A send of several packets (see Conn.Write) is limited by the kernel.
const (
	// MaxSegments is the largest number of packets.
	MaxSegments = 64
	// MaxSend is the largest number of bytes.
	MaxSend = 63000
)

// Message is what one receive yields: one packet, or several of one size from
// one source (the last may be shorter).
type Message struct {
	// Buf belongs to the caller and receives the bytes; MaxMessage long, lest
	// packets be cut.
	Buf []byte
	// N is the number of bytes received.
	N int
	// Seg is the size of each packet but the last; Seg == N for a single one.
	Seg int
	// From is the source. IPv4 addresses are never in their IPv6 form.
	From netip.AddrPort
	// TOS is the type of service or traffic class byte; its low two bits are
	// the ECN field. 0 where the system does not tell.
	TOS uint8
	// Local is where it arrived.
	Local Local
}

// ErrUnbound is wrapped by the error of a send while there is no socket.
var ErrUnbound = errors.New("no UDP socket")

// Conn is one UDP socket of one IP version. It is bound or it looks for a way to
// be bound again: a file descriptor that broke or could not be had anew ends
// nothing. See the package comment for who may call what.
type Conn struct {
	network string // "udp4" or "udp6"
	cfg     Config
	// bind makes a socket; tests put one that fails in its place.
	bind func(netip.AddrPort) (*socket, error)
	// want is the address of the first socket, which each later one asks for.
	want netip.AddrPort

	from sources
	cur  atomic.Pointer[socket] // never nil, closed while the Conn is unbound
	// The one reader's: what it reads into, its last pause before a try to be bound
	// again, 0 once something was read, and when the next try is, zero while bound.
	rx    receiver
	pause time.Duration
	retry time.Time
	// changed has a token when a reader that waits for a socket should look again.
	changed chan struct{}

	mu       sync.Mutex // guards replacing cur, and the fields below
	deadline time.Time  // of reads, kept for the next socket
	unbound  error      // why there is no socket now
	closed   bool

	stats counters
}

// socket is one file descriptor in the life of a Conn. Its noGSO is what EIO
// taught us about it.
type socket struct {
	*net.UDPConn
	raw   syscall.RawConn
	local netip.AddrPort
	is6   bool
	noGSO atomic.Bool
	wrote atomic.Bool // the first send was tried, see sendmsg
}

// listen binds one socket. The error wraps ErrPortInUse where that is the cause.
func listen(network string, addr netip.AddrPort, cfg Config) (*Conn, error) {
	c := &Conn{network: network, cfg: cfg, changed: make(chan struct{}, 1)}
	c.rx.init()
	c.bind = c.newSocket
	s, err := c.bind(addr)
	if err != nil {
		return nil, err
	}
	c.want = s.local
	c.cur.Store(s)
	return c, nil
}

// newSocket makes a socket with all its options. The whole Config is read again for
// each, so that a rebound socket lacks nothing.
func (c *Conn) newSocket(addr netip.AddrPort) (*socket, error) {
	lc := net.ListenConfig{Control: MarkControl(c.cfg.Mark, c.cfg.Logger)}
	pc, err := lc.ListenPacket(context.Background(), c.network, addr.String())
	if err != nil {
		if errors.Is(err, errAddrInUse) {
			err = fmt.Errorf("%w: %w", ErrPortInUse, err)
		}
		return nil, fmt.Errorf("bind %s %s: %w", c.network, addr, err)
	}
	uc := pc.(*net.UDPConn)
	raw, err := uc.SyscallConn()
	if err != nil {
		uc.Close()
		return nil, fmt.Errorf("bind %s %s: %w", c.network, addr, err)
	}
	s := &socket{UDPConn: uc, raw: raw, local: uc.LocalAddr().(*net.UDPAddr).AddrPort(), is6: c.Is6()}
	if err := setOptions(s); err != nil {
		c.cfg.Logger.Warn("udp socket options", "network", c.network, "err", err)
	}
	return s, nil
}

// LocalAddr is the bound address, or the last one while there is none.
func (c *Conn) LocalAddr() netip.AddrPort { return c.cur.Load().local }

// Is6 reports whether this is the IPv6 socket.
func (c *Conn) Is6() bool { return c.network == "udp6" }

// SyscallConn is the present socket's file descriptor.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return c.cur.Load().raw, nil }

// Read waits for packets and fills ms from the front. It returns the number of
// messages, at least 1, or an error: one that wraps net.ErrClosed after Close,
// os.ErrDeadlineExceeded after the deadline. Whatever else happens to the socket
// is mended here.
func (c *Conn) Read(ms []Message) (int, error) {
	for {
		s := c.cur.Load()
		n, err := c.receive(s, ms, true)
		switch {
		case n > 0:
			c.pause = 0
			return n, nil
		case err == nil:
			continue
		case errors.Is(err, os.ErrDeadlineExceeded):
			return 0, err
		}
		if err := c.awaitNext(s, err); err != nil {
			return 0, err
		}
	}
}

// TryRead is Read that returns 0 where Read would wait.
func (c *Conn) TryRead(ms []Message) (int, error) {
	n, err := c.receive(c.cur.Load(), ms, false)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !c.isClosed() {
		return 0, nil // Read will meet it, and mend it
	}
	return n, err
}

// SetReadDeadline is that of net.Conn: a time in the past wakes the reader.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	if c.unbound != nil {
		c.lookAgain()
		return nil
	}
	return c.cur.Load().SetReadDeadline(t)
}

// Write sends b to one destination, as packets of seg bytes of which the last
// may be shorter; seg ≤ 0 or ≥ len(b) makes it one packet. At most MaxSegments
// packets and MaxSend bytes. ecn are the two ECN bits. b is not kept.
//
// Packets larger than the link takes are counted and not reported, as if they
// had been lost on the way. An error that wraps net.ErrClosed means that the
// Conn is closed; any other says that the system has no way to that
// destination now.
func (c *Conn) Write(b []byte, seg int, ecn uint8, to netip.AddrPort) error {
	s := c.cur.Load()
	if seg <= 0 || seg >= len(b) {
		return c.verdict(s, c.send(s, b, 0, ecn, to))
	}
	if s.noGSO.Load() {
		return c.writeEach(s, b, seg, ecn, to)
	}
	err := c.send(s, b, seg, ecn, to)
	switch {
	case err == nil:
		return nil
	case isNoGSO(err):
		s.noGSO.Store(true)
		c.cfg.Logger.Info("udp segmentation offload is off", "network", c.network, "err", err)
		return c.writeEach(s, b, seg, ecn, to)
	case isSegmentError(err):
		// One by one the shorter last one may still pass.
		return c.writeEach(s, b, seg, ecn, to)
	}
	return c.verdict(s, err)
}

func (c *Conn) writeEach(s *socket, b []byte, seg int, ecn uint8, to netip.AddrPort) error {
	for len(b) > 0 {
		n := min(seg, len(b))
		if err := c.verdict(s, c.send(s, b[:n], 0, ecn, to)); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// verdict counts the error of a send and forgets what is as good as a loss.
func (c *Conn) verdict(s *socket, err error) error {
	switch {
	case err == nil:
		return nil
	case isSizeError(err):
		c.stats.tooBig.Add(1)
		return nil
	case errors.Is(err, net.ErrClosed):
		if err = c.gone(s); err == nil {
			return nil
		}
	}
	c.stats.txErrors.Add(1)
	return err
}

// send is one system call, counted.
func (c *Conn) send(s *socket, b []byte, seg int, ecn uint8, to netip.AddrPort) error {
	from := c.from.get(to)
	err := s.sendmsg(b, seg, ecn, to, from)
	if err != nil && from.IsValid() && !errors.Is(err, net.ErrClosed) && !isSizeError(err) {
		if err = s.sendmsg(b, seg, ecn, to, netip.Addr{}); err == nil {
			c.from.set(to, netip.Addr{}) // this host has that address no more
		}
	}
	if err != nil && !s.wrote.Swap(true) && errors.Is(err, syscall.EPERM) {
		// The first send on a new socket sometimes fails so: golang/go#63322.
		err = s.sendmsg(b, seg, ecn, to, netip.Addr{})
	}
	if err != nil {
		return err
	}
	c.stats.sent(len(b), seg)
	return nil
}

// MarkControl is a Control function for net.Dialer and net.ListenConfig that
// sets the firewall mark; nil when mark is 0. A mark that is not permitted is
// logged and left out.
func MarkControl(mark uint32, log *slog.Logger) func(network, address string, c syscall.RawConn) error {
	if mark == 0 {
		return nil
	}
	return func(network, _ string, rc syscall.RawConn) error {
		if err := setMark(rc, mark); err != nil {
			log.Warn("socket mark not set", "network", network, "mark", mark, "err", err)
		}
		return nil
	}
}
