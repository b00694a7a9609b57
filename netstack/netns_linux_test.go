package netstack

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/nstest"
	"github.com/nodetun/nodetun/tun"
)

// Addresses of the kernel's side, and of somebody behind the device.
var (
	kernel4, behind4 = netip.MustParseAddr("100.100.0.1"), netip.MustParseAddr("100.100.0.2")
	kernel6, behind6 = netip.MustParseAddr("fd6e:6f64:6574::1"), netip.MustParseAddr("fd6e:6f64:6574::2")
)

var kernelFamilies = []struct {
	name           string
	kernel, behind netip.Addr
}{{"IPv4", kernel4, behind4}, {"IPv6", kernel6, behind6}}

// host is a stack behind the TUN device of a namespace.
type host struct {
	*Stack
	ns *nstest.NS
}

// program ── kernel TCP ── nt0 ── Stack, all in one process.
func newHost(t testing.TB, accept func(*Pending)) *host {
	t.Helper()
	ns := nstest.New(t, "netstack")
	var dev *tun.Device
	var err error
	ns.Do(t, func() { dev, err = tun.Open(tun.Config{Name: "nt0", MTU: 1420}) })
	if err != nil {
		t.Fatal(err)
	}
	ns.Run(t, "ip", "addr", "add", kernel4.String()+"/16", "dev", "nt0")
	ns.Run(t, "ip", "addr", "add", kernel6.String()+"/48", "dev", "nt0", "nodad")
	ns.Run(t, "ip", "link", "set", "nt0", "up")
	s, err := New(Config{MTU: 1420, Write: dev.Write, Accept: accept})
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, tun.BufferSize)
		for {
			h, ip, err := dev.Read(buf)
			if err != nil {
				return
			}
			s.Inject(h, ip)
		}
	}()
	t.Cleanup(func() {
		s.Close()
		dev.Close()
		<-read
	})
	return &host{s, ns}
}

// dial connects a program in the namespace.
func (h *host) dial(t testing.TB, dst netip.AddrPort, timeout time.Duration) (conn *net.TCPConn, err error) {
	t.Helper()
	h.ns.Do(t, func() {
		var c net.Conn
		dialer := net.Dialer{Timeout: timeout}
		if c, err = dialer.Dial("tcp", dst.String()); err == nil {
			conn = c.(*net.TCPConn)
		}
	})
	if err == nil {
		t.Cleanup(func() { conn.Close() })
	}
	return conn, err
}

// listen opens a listener in the namespace.
func (h *host) listen(t testing.TB, addr netip.Addr) *net.TCPListener {
	t.Helper()
	var l *net.TCPListener
	var err error
	h.ns.Do(t, func() { l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr, 0))) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// A program of the host talks to a flow: half-close, 3 MB each way, and the
// addresses it sees are those it dialled.
func TestNetnsAccept(t *testing.T) {
	for _, family := range kernelFamilies {
		t.Run(family.name, func(t *testing.T) {
			question, answer := pattern(1, 3<<20), pattern(2, 3<<20)
			served := make(chan error, 1)
			h := newHost(t, func(req *Pending) {
				f, err := req.Accept()
				if err != nil {
					served <- err
					return
				}
				defer f.Close()
				got, err := io.ReadAll(f)
				if err == nil && !bytes.Equal(got, question) {
					err = fmt.Errorf("question of %d bytes differs", len(got))
				}
				if err == nil {
					_, err = f.Write(answer)
				}
				served <- errors.Join(err, f.CloseWrite())
			})
			conn, err := h.dial(t, netip.AddrPortFrom(family.behind, 22), time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write(question); err != nil {
				t.Fatal(err)
			}
			_ = conn.CloseWrite()
			got, err := io.ReadAll(conn)
			if err != nil || !bytes.Equal(got, answer) {
				t.Errorf("answer of %d bytes, %v", len(got), err)
			}
			if err := receive(t, served); err != nil {
				t.Error(err)
			}
		})
	}
}

// A program that connects again and again from one port is answered at once, whoever closes
// first: nothing of the flow before is in the way.
func TestNetnsSamePort(t *testing.T) {
	for _, family := range kernelFamilies {
		t.Run(family.name, func(t *testing.T) {
			h := newHost(t, func(req *Pending) {
				if f, err := req.Accept(); err == nil {
					_ = f.CloseWrite()
					_, _ = io.Copy(io.Discard, f)
					f.Close()
				}
			})
			reuse := func(_, _ string, c syscall.RawConn) (err error) {
				return errors.Join(c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1) }), err)
			}
			dialer := net.Dialer{LocalAddr: &net.TCPAddr{Port: 700}, Control: reuse, Timeout: time.Minute}
			for i := range 30 {
				var began time.Time
				var c net.Conn
				for ctx := within(t, 10*time.Second); c == nil; { // until the kernel's own socket has ended
					var err error
					began = time.Now()
					h.ns.Do(t, func() { c, err = dialer.Dial("tcp", netip.AddrPortFrom(family.behind, 22).String()) })
					if err != nil && (!errors.Is(err, syscall.EADDRNOTAVAIL) || ctx.Err() != nil) {
						t.Fatal(err)
					}
				}
				if took := time.Since(began); took > 200*time.Millisecond*nstest.Slack { // a SYN comes again after 1 s
					t.Errorf("connection %d took %v", i, took)
				}
				if i%2 > 0 { // the flow closes first
					_, _ = io.Copy(io.Discard, c)
				}
				c.Close()
			}
		})
	}
}

// The server sees the caller's own address and port.
func TestNetnsDial(t *testing.T) {
	for _, family := range kernelFamilies {
		t.Run(family.name, func(t *testing.T) {
			h := newHost(t, nil)
			l := h.listen(t, family.kernel)
			dst := l.Addr().(*net.TCPAddr).AddrPort()
			src := netip.AddrPortFrom(family.behind, 41000)
			for range 3 {
				f, conn := h.dialFrom(t, src, l)
				if got := conn.RemoteAddr().(*net.TCPAddr).AddrPort(); got != src {
					t.Errorf("server sees %v", got)
				}
				sent := pattern(5, 3<<20)
				go func() {
					_, _ = conn.Write(sent)
					_ = conn.CloseWrite()
				}()
				got, err := io.ReadAll(f)
				if err != nil || !bytes.Equal(got, sent) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				// The same port once more, right after: the kernel's TIME_WAIT is
				// no obstacle.
				f.Close()
				_, _ = io.Copy(io.Discard, conn)
				conn.Close()
			}
			l.Close()
			if _, err := h.Dial(within(t, time.Minute), src, dst); !errors.Is(err, ErrRefused) {
				t.Errorf("nobody listens: %v", err)
			}
		})
	}
}

// dialFrom dials the listener from exactly src.
func (h *host) dialFrom(t testing.TB, src netip.AddrPort, l *net.TCPListener) (*Flow, *net.TCPConn) {
	t.Helper()
	f, err := h.Dial(within(t, time.Minute), src, l.Addr().(*net.TCPAddr).AddrPort())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	return f, conn
}

// What nftables answers for a closed host becomes the error of Dial.
func TestNetnsDialRejected(t *testing.T) {
	h := newHost(t, nil)
	h.ns.Nft(t, `table inet f {
	chain in {
		type filter hook input priority 0;
		meta nfproto ipv4 tcp dport 1 reject with icmp admin-prohibited
		meta nfproto ipv4 tcp dport 2 reject with icmp net-unreachable
		meta nfproto ipv4 tcp dport 3 reject with icmp port-unreachable
		meta nfproto ipv6 tcp dport 1 reject with icmpv6 admin-prohibited
		meta nfproto ipv6 tcp dport 2 reject with icmpv6 no-route
		meta nfproto ipv6 tcp dport 3 reject with icmpv6 port-unreachable
		tcp dport 4 reject with tcp reset
	}
}`)
	for _, family := range kernelFamilies {
		for port, want := range map[uint16]error{1: ErrHostUnreachable, 2: ErrNetUnreachable, 3: ErrRefused, 4: ErrRefused} {
			_, err := h.Dial(within(t, time.Minute), netip.AddrPortFrom(family.behind, 42000), netip.AddrPortFrom(family.kernel, port))
			if !errors.Is(err, want) {
				t.Errorf("%s port %d: %v", family.name, port, err)
			}
		}
	}
}

// What connect() says in a program for each answer, both at once and after the
// SYN was repeated.
func TestNetnsConnectErrors(t *testing.T) {
	tests := []struct {
		port   uint16
		answer func(*Pending)
		v4, v6 syscall.Errno
	}{
		{1, func(p *Pending) { p.Reset() }, syscall.ECONNREFUSED, syscall.ECONNREFUSED},
		{2, func(p *Pending) { p.Unreachable(NoRoute) }, syscall.ENETUNREACH, syscall.ENETUNREACH},
		{3, func(p *Pending) { p.Unreachable(HostUnreachable) }, syscall.EHOSTUNREACH, syscall.EHOSTUNREACH},
		{4, func(p *Pending) { p.Unreachable(Prohibited) }, syscall.EHOSTUNREACH, syscall.EACCES},
	}
	for _, delay := range []time.Duration{0, 2500 * time.Millisecond} {
		for _, family := range kernelFamilies {
			t.Run(fmt.Sprintf("%s after %v", family.name, delay), func(t *testing.T) {
				t.Parallel()
				var mu sync.Mutex
				answers := make(map[uint16]int) // by port
				h := newHost(t, func(p *Pending) {
					mu.Lock()
					answers[p.Dst().Port()]++
					mu.Unlock()
					select {
					case <-p.Done():
						t.Error("the caller was given up")
					case <-time.After(delay):
					}
					tests[p.Dst().Port()-1].answer(p)
				})
				var group sync.WaitGroup
				for _, tt := range tests {
					want := tt.v4
					if family.kernel.Is6() {
						want = tt.v6
					}
					group.Go(func() {
						_, err := h.dial(t, netip.AddrPortFrom(family.behind, tt.port), time.Minute)
						if !errors.Is(err, want) {
							t.Errorf("port %d: %v, want %v", tt.port, err, want)
						}
						mu.Lock()
						defer mu.Unlock()
						if n := answers[tt.port]; n != 1 {
							t.Errorf("port %d: the kernel believed the answer number %d", tt.port, n)
						}
					})
				}
				group.Wait()
			})
		}
	}
}

// RST both ways: a program that aborts, and a flow that does.
func TestNetnsReset(t *testing.T) {
	flows := make(chan *Flow, 1)
	h := newHost(t, func(req *Pending) {
		f, err := req.Accept()
		if err != nil {
			t.Error(err)
		}
		flows <- f
	})
	for _, programResets := range []bool{true, false} {
		conn, err := h.dial(t, netip.AddrPortFrom(behind6, 22), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		f := receive(t, flows)
		if programResets {
			_ = conn.SetLinger(0)
			conn.Close()
			if _, err := f.Read(make([]byte, 1)); !errors.Is(err, ErrReset) {
				t.Errorf("read: %v", err)
			}
		} else {
			f.Abort()
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("program's read: %v", err)
			}
		}
		f.Close()
	}
}

// A program that no longer waits is noticed.
func TestNetnsCallerGivesUp(t *testing.T) {
	gone := make(chan time.Time, 1)
	h := newHost(t, func(req *Pending) {
		<-req.Done()
		gone <- time.Now()
	})
	var netErr net.Error
	if _, err := h.dial(t, netip.AddrPortFrom(behind4, 22), 1500*time.Millisecond); !errors.As(err, &netErr) || !netErr.Timeout() {
		t.Fatal(err)
	}
	left := time.Now()
	if after := receive(t, gone).Sub(left); after > 30*time.Second {
		t.Errorf("noticed after %v", after)
	}
}

// The kernel's answer to a SYN-ACK that nobody waits for ends Accept.
func TestNetnsAcceptAfterCallerLeft(t *testing.T) {
	result, left := make(chan error, 1), make(chan struct{})
	h := newHost(t, func(req *Pending) {
		<-left
		_, err := req.Accept()
		result <- err
	})
	_, err := h.dial(t, netip.AddrPortFrom(behind4, 22), 200*time.Millisecond)
	close(left)
	if err == nil {
		t.Fatal("connected")
	}
	if err := receive(t, result); !errors.Is(err, ErrGone) {
		t.Errorf("accept: %v", err)
	}
}
