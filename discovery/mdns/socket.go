package mdns

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

const port = 5353

// Where questions and answers go.
var (
	group4 = netip.MustParseAddr("224.0.0.251")
	group6 = netip.MustParseAddr("ff02::fb")
)

// sockets are bound to the port that all programs with multicast DNS share, at the groups
// alone: one for IPv4, and for IPv6, whose group is another on each link, one for each.
type sockets struct {
	control func(network, address string, c syscall.RawConn) error
	v4      *ipv4.PacketConn

	mu     sync.Mutex // guards the fields below
	v6     map[int]*ipv6.PacketConn
	begun  bool // read4 was given away
	closed bool
}

// open binds that of IPv4. The control function, which may be nil, is given each socket
// before.
func open(control func(network, address string, c syscall.RawConn) error) (*sockets, error) {
	conn, err := bind(control, netip.AddrPortFrom(group4, port), 0)
	if err != nil {
		return nil, err
	}
	s := &sockets{control: control, v4: ipv4.NewPacketConn(conn), v6: make(map[int]*ipv6.PacketConn)}
	_ = s.v4.SetControlMessage(ipv4.FlagInterface, true)
	_ = s.v4.SetMulticastTTL(255)
	_ = s.v4.SetMulticastLoopback(true) // other nodes on this host
	return s, nil
}

func (s *sockets) use(ways []way) (fresh []reader) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	if !s.begun {
		s.begun = true
		fresh = append(fresh, s.read4)
	}
	for link, conn := range s.v6 {
		if !slices.Contains(ways, way{link, true}) {
			_ = conn.Close()
			delete(s.v6, link)
		}
	}
	for _, by := range ways {
		link := &net.Interface{Index: by.link}
		if !by.six { // it does no harm to join again
			_ = s.v4.JoinGroup(link, &net.UDPAddr{IP: group4.AsSlice()})
		} else if s.v6[by.link] == nil {
			if conn, err := s.open6(link); err == nil { // else it is tried again at the next change
				s.v6[by.link] = conn
				fresh = append(fresh, read6(conn, by))
			}
		}
	}
	return fresh
}

// open6 makes the socket of a link.
func (s *sockets) open6(link *net.Interface) (*ipv6.PacketConn, error) {
	conn, err := bind(s.control, netip.AddrPortFrom(group6, port), link.Index)
	if err != nil {
		return nil, err
	}
	v6 := ipv6.NewPacketConn(conn)
	if err = v6.JoinGroup(link, &net.UDPAddr{IP: group6.AsSlice()}); err == nil {
		err = v6.SetMulticastInterface(link)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	_ = v6.SetMulticastHopLimit(255)
	_ = v6.SetMulticastLoopback(true)
	return v6, nil
}

// send sends to all on a link.
func (s *sockets) send(b []byte, by way) {
	if !by.six {
		_, _ = s.v4.WriteTo(b, &ipv4.ControlMessage{IfIndex: by.link}, &net.UDPAddr{IP: group4.AsSlice(), Port: port})
		return
	}
	s.mu.Lock()
	conn := s.v6[by.link]
	s.mu.Unlock()
	if conn != nil {
		_, _ = conn.WriteTo(b, nil, &net.UDPAddr{IP: group6.AsSlice(), Port: port})
	}
}

func (s *sockets) read4(buf []byte) (n int, from way, err error) {
	n, cm, _, err := s.v4.ReadFrom(buf)
	if cm != nil {
		from.link = cm.IfIndex
	}
	return n, from, err
}

func read6(conn *ipv6.PacketConn, by way) reader {
	return func(buf []byte) (int, way, error) {
		n, _, _, err := conn.ReadFrom(buf)
		return n, by, err
	}
}

func (s *sockets) close() {
	_ = s.v4.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, conn := range s.v6 {
		_ = conn.Close()
	}
}
