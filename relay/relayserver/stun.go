package relayserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/pion/stun/v2"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/nodetun/nodetun/internal/ratelimit"
)

// stunServer answers binding requests on one socket.
type stunServer struct {
	conn  *net.UDPConn
	limit *ratelimit.Table
	count *counters
}

// listenSTUN binds the address. Without an address of one family it binds a
// socket for each, because a socket for both shows IPv4 clients as IPv6, and
// the answer would carry such an address. One family may be missing.
func listenSTUN(addr string) ([]*net.UDPConn, error) {
	a, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil, err
	}
	if a.IP != nil && !a.IP.IsUnspecified() || isIPv4(a.IP) {
		network := "udp6"
		if a.IP.To4() != nil {
			network = "udp4"
		}
		conn, err := net.ListenUDP(network, a)
		if err != nil {
			return nil, err
		}
		return []*net.UDPConn{conn}, nil
	}
	return listenBoth(a.Port)
}

func isIPv4(ip net.IP) bool { return ip.To4() != nil }

func listenBoth(port int) ([]*net.UDPConn, error) {
	var conns []*net.UDPConn
	var firstErr error
	for _, network := range []string{"udp4", "udp6"} {
		conn, err := net.ListenUDP(network, &net.UDPAddr{Port: port})
		if err != nil {
			if firstErr == nil {
				firstErr = err
			}
			continue
		}
		conns = append(conns, conn)
		// A free port that the kernel chose is to serve both.
		port = int(localAddrPort(conn).Port())
	}
	if len(conns) == 0 {
		return nil, firstErr
	}
	return conns, nil
}

func localAddrPort(c *net.UDPConn) netip.AddrPort {
	a, ok := c.LocalAddr().(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	return a.AddrPort()
}

// run answers until ctx is done.
func (s *stunServer) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.conn.Close() })
	defer stop()
	defer func() { _ = s.conn.Close() }()
	packets := withSources(s.conn)
	buf := make([]byte, 1500)
	request, answer := new(stun.Message), new(stun.Message)
	for {
		n, asked, source, err := packets.read(buf)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("relay: STUN: %w", err)
		}
		udp, ok := source.(*net.UDPAddr)
		if err != nil || !ok {
			continue // an ICMP error for an earlier answer
		}
		from := udp.AddrPort()
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		if s.answer(buf[:n], from, request, answer) {
			_ = packets.write(answer.Raw, asked, source)
		}
	}
}

// sourced is a socket whose packets leave from the address that was asked: clients, and
// the firewalls before them, take answers from no other. The address may be nil.
type sourced struct {
	read  func(b []byte) (n int, asked net.IP, from net.Addr, err error)
	write func(b []byte, asked net.IP, to net.Addr) error
}

func withSources(conn *net.UDPConn) sourced {
	if isIPv4(localAddrPort(conn).Addr().AsSlice()) {
		c := ipv4.NewPacketConn(conn)
		_ = c.SetControlMessage(ipv4.FlagDst, true) // where the system cannot, it chooses the source
		return sourced{
			read: func(b []byte) (int, net.IP, net.Addr, error) {
				n, info, from, err := c.ReadFrom(b)
				if info == nil {
					return n, nil, from, err
				}
				return n, info.Dst, from, err
			},
			write: func(b []byte, asked net.IP, to net.Addr) error {
				_, err := c.WriteTo(b, &ipv4.ControlMessage{Src: asked}, to)
				return err
			},
		}
	}
	c := ipv6.NewPacketConn(conn)
	_ = c.SetControlMessage(ipv6.FlagDst, true)
	return sourced{
		read: func(b []byte) (int, net.IP, net.Addr, error) {
			n, info, from, err := c.ReadFrom(b)
			if info == nil {
				return n, nil, from, err
			}
			return n, info.Dst, from, err
		},
		write: func(b []byte, asked net.IP, to net.Addr) error {
			_, err := c.WriteTo(b, &ipv6.ControlMessage{Src: asked}, to)
			return err
		},
	}
}

// answer makes the answer to a packet, if it deserves one. request and answer
// are scratch space.
func (s *stunServer) answer(b []byte, from netip.AddrPort, request, answer *stun.Message) bool {
	if !isBindingRequest(b, request) {
		s.count.stunBad.Add(1)
		return false
	}
	s.count.stunRequests.Add(1)
	if !s.limit.Allow(from.Addr(), time.Now()) {
		s.count.stunLimited.Add(1)
		return false
	}
	answer.Reset()
	answer.Type = stun.BindingSuccess
	answer.TransactionID = request.TransactionID
	answer.WriteHeader()
	mapped := stun.XORMappedAddress{IP: from.Addr().AsSlice(), Port: int(from.Port())}
	if err := mapped.AddTo(answer); err != nil {
		s.count.stunBad.Add(1)
		return false
	}
	if from.Addr().Is4() {
		s.count.stunAnswers4.Add(1)
	} else {
		s.count.stunAnswers6.Add(1)
	}
	return true
}

// isBindingRequest parses b into m. A fingerprint is checked if it is there;
// iroh always sends one, others need not.
func isBindingRequest(b []byte, m *stun.Message) bool {
	if !stun.IsMessage(b) {
		return false
	}
	m.Reset()
	m.Raw = append(m.Raw[:0], b...)
	if m.Decode() != nil || m.Type != stun.BindingRequest {
		return false
	}
	if _, err := m.Get(stun.AttrFingerprint); err != nil {
		return true
	}
	return stun.Fingerprint.Check(m) == nil
}
