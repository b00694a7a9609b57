package mdns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

const port = 5353

var (
	group4 = netip.MustParseAddr("224.0.0.251")
	group6 = netip.MustParseAddr("ff02::fb")
)

// sockets are those of both IP versions, bound to the port that all programs with
// multicast DNS share.
type sockets struct {
	v4 *ipv4.PacketConn // nil: not to be had
	v6 *ipv6.PacketConn
}

// open binds; it fails only if neither version can be had.
func open(control func(network, address string, c syscall.RawConn) error) (*sockets, error) {
	lc := net.ListenConfig{Control: func(network, address string, c syscall.RawConn) error {
		if control != nil {
			if err := control(network, address, c); err != nil {
				return err
			}
		}
		return share(c)
	}}
	var s sockets
	c4, err4 := lc.ListenPacket(context.Background(), "udp4", "0.0.0.0:5353")
	if err4 == nil {
		s.v4 = ipv4.NewPacketConn(c4)
		_ = s.v4.SetControlMessage(ipv4.FlagInterface, true)
		_ = s.v4.SetMulticastTTL(255)
		_ = s.v4.SetMulticastLoopback(true) // other nodes on this host
	}
	c6, err6 := lc.ListenPacket(context.Background(), "udp6", "[::]:5353")
	if err6 == nil {
		s.v6 = ipv6.NewPacketConn(c6)
		_ = s.v6.SetControlMessage(ipv6.FlagInterface, true)
		_ = s.v6.SetMulticastHopLimit(255)
		_ = s.v6.SetMulticastLoopback(true)
	}
	if s.v4 == nil && s.v6 == nil {
		return nil, errors.Join(err4, err6)
	}
	return &s, nil
}

// join joins the groups on a link; it does no harm to do so again.
func (s *sockets) join(link *net.Interface) {
	if s.v4 != nil {
		_ = s.v4.JoinGroup(link, &net.UDPAddr{IP: group4.AsSlice()})
	}
	if s.v6 != nil {
		_ = s.v6.JoinGroup(link, &net.UDPAddr{IP: group6.AsSlice()})
	}
}

// send sends to all on a link, by both versions.
func (s *sockets) send(b []byte, link int) {
	if s.v4 != nil {
		_, _ = s.v4.WriteTo(b, &ipv4.ControlMessage{IfIndex: link}, &net.UDPAddr{IP: group4.AsSlice(), Port: port})
	}
	if s.v6 != nil {
		_, _ = s.v6.WriteTo(b, &ipv6.ControlMessage{IfIndex: link}, &net.UDPAddr{IP: group6.AsSlice(), Port: port})
	}
}

func (s *sockets) readers() (list []func([]byte) (n, link int, err error)) {
	if s.v4 != nil {
		list = append(list, s.read4)
	}
	if s.v6 != nil {
		list = append(list, s.read6)
	}
	return list
}

func (s *sockets) read4(buf []byte) (n, link int, err error) {
	n, cm, _, err := s.v4.ReadFrom(buf)
	if cm != nil {
		link = cm.IfIndex
	}
	return n, link, err
}

func (s *sockets) read6(buf []byte) (n, link int, err error) {
	n, cm, _, err := s.v6.ReadFrom(buf)
	if cm != nil {
		link = cm.IfIndex
	}
	return n, link, err
}

func (s *sockets) close() {
	if s.v4 != nil {
		_ = s.v4.Close()
	}
	if s.v6 != nil {
		_ = s.v6.Close()
	}
}
