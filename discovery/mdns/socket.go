package mdns

import (
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/net/ipv4"
)

const port = 5353

// group is where questions and answers go: by IPv4, where nodes of iroh-net ask first.
var group = netip.MustParseAddr("224.0.0.251")

// socket is bound to the port that all programs with multicast DNS share.
type socket struct{ v4 *ipv4.PacketConn }

// open binds. The control function, which may be nil, is given the socket before.
func open(control func(network, address string, c syscall.RawConn) error) (*socket, error) {
	conn, err := bind(control)
	if err != nil {
		return nil, err
	}
	s := &socket{ipv4.NewPacketConn(conn)}
	_ = s.v4.SetControlMessage(ipv4.FlagInterface, true)
	_ = s.v4.SetMulticastTTL(255)
	_ = s.v4.SetMulticastLoopback(true) // other nodes on this host
	return s, nil
}

// join joins the group on a link; it does no harm to do so again.
func (s *socket) join(link *net.Interface) {
	_ = s.v4.JoinGroup(link, &net.UDPAddr{IP: group.AsSlice()})
}

// send sends to all on a link.
func (s *socket) send(b []byte, link int) {
	_, _ = s.v4.WriteTo(b, &ipv4.ControlMessage{IfIndex: link}, &net.UDPAddr{IP: group.AsSlice(), Port: port})
}

func (s *socket) readers() []func([]byte) (n, link int, err error) {
	return []func([]byte) (n, link int, err error){func(buf []byte) (n, link int, err error) {
		n, cm, _, err := s.v4.ReadFrom(buf)
		if cm != nil {
			link = cm.IfIndex
		}
		return n, link, err
	}}
}

func (s *socket) close() { _ = s.v4.Close() }
