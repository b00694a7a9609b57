package netstack

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/nodetun/nodetun/internal/vnet"
)

// Protocol numbers.
const (
	protoICMP   = 1
	protoTCP    = 6
	protoICMPv6 = 58
)

// Inject gives one packet, as it came from a TUN device, to the stack, which
// copies it. TCP segments go to their connection, or become a Pending; ICMP
// errors about a connection go to Dial. Anything else, fragments too, is
// dropped and counted: the kernel sends no TCP in fragments.
//
// The checksum of a segment is verified unless the header says that the kernel
// vouches for it.
func (s *Stack) Inject(h vnet.Header, ip []byte) {
	if h.Check(ip) != nil {
		s.link.filtered.Add(1)
		return
	}
	proto, l4 := transport(ip)
	switch {
	case proto == protoTCP:
		if h.Flags&(vnet.NeedsCsum|vnet.DataValid) == 0 && !vnet.ChecksumValid(ip) {
			s.link.badChecksum.Add(1)
			return
		}
		if begins(ip, l4) {
			s.deliverSYN(ip, l4)
			return
		}
		s.link.deliver(ip, tcpEnd(ip, l4))
	case proto == protoICMP && ip[0]>>4 == 4, proto == protoICMPv6 && ip[0]>>4 == 6:
		s.icmp(ip, l4)
	default:
		s.link.filtered.Add(1)
	}
}

const (
	// synPause is how long a SYN waits for the end of the connection before, synTries how
	// often at most.
	synPause = 2 * timeWait
	synTries = 8
)

// deliverSYN delivers a SYN, which waits if the connection before it has to end first.
func (s *Stack) deliverSYN(ip []byte, l4 int) {
	if s.ending(endpointID(ip, l4)) {
		s.later(slices.Clone(ip), l4, synTries)
		return
	}
	s.giveSYN(ip, l4)
}

// giveSYN delivers a SYN now.
func (s *Stack) giveSYN(ip []byte, l4 int) {
	if id := endpointID(ip, l4); s.find(id) != nil {
		s.link.unrefused.add(id, binary.BigEndian.Uint32(ip[l4+4:]))
	}
	s.link.deliver(ip, tcpEnd(ip, l4))
}

// begins reports whether a segment is the first of a connection.
func begins(ip []byte, l4 int) bool {
	const flags, syn, others = 13, 2, 0x10 | 4 | 1 // of ACK, RST, FIN
	return len(ip) >= l4+20 && ip[l4+flags]&(syn|others) == syn
}

// endpointID names the connection of a segment, as gVisor does.
func endpointID(ip []byte, l4 int) stack.TransportEndpointID {
	id := stack.TransportEndpointID{RemotePort: binary.BigEndian.Uint16(ip[l4:]), LocalPort: binary.BigEndian.Uint16(ip[l4+2:])}
	if ip[0]>>4 == 4 {
		id.RemoteAddress, id.LocalAddress = tcpip.AddrFrom4([4]byte(ip[12:16])), tcpip.AddrFrom4([4]byte(ip[16:20]))
	} else {
		id.RemoteAddress, id.LocalAddress = tcpip.AddrFrom16([16]byte(ip[8:24])), tcpip.AddrFrom16([16]byte(ip[24:40]))
	}
	return id
}

// ending reports whether there is a connection of these ends that is ending, or may be: by
// FIN of both sides, or by a reset that came just before and waits in its queue. gVisor
// swallows a SYN for the first, which a caller sends again after 1 s only, and refuses one
// that stands behind a reset.
func (s *Stack) ending(id stack.TransportEndpointID) bool {
	endpoint := s.find(id)
	if endpoint == nil {
		return false
	}
	switch tcp.EndpointState(endpoint.State()) {
	case tcp.StateSynRecv, tcp.StateSynSent: // the same SYN once more
		return false
	}
	return true
}

// find returns gVisor's end of a connection, nil for none.
func (s *Stack) find(id stack.TransportEndpointID) *tcp.Endpoint {
	proto := header.IPv4ProtocolNumber
	if id.LocalAddress.Len() == header.IPv6AddressSize {
		proto = header.IPv6ProtocolNumber
	}
	endpoint, _ := s.net.FindTransportEndpoint(proto, tcp.ProtocolNumber, id, nicID).(*tcp.Endpoint)
	return endpoint
}

// later delivers a SYN once the connection before it has ended, or after some tries.
func (s *Stack) later(ip []byte, l4, tries int) {
	if !s.begin() {
		return
	}
	time.AfterFunc(synPause, func() {
		defer s.work.Done()
		if tries > 1 && s.ending(endpointID(ip, l4)) {
			s.later(ip, l4, tries-1)
			return
		}
		s.giveSYN(ip, l4)
	})
}

// unrefused are SYNs that were given to a connection before theirs that was still there. It
// asks whether its caller is gone, and the caller says so (RFC 5961 4.2). But if it ends in
// that moment gVisor answers the SYN with a reset, as if nobody listened. That reset is not
// sent: the caller tries again.
type unrefused struct {
	count atomic.Int32
	syns  sync.Map // the number that a reset would acknowledge, by connection
}

// unrefusedFor is how long such a SYN may wait in a queue.
const unrefusedFor = time.Second

func (u *unrefused) add(id stack.TransportEndpointID, seq uint32) {
	if _, known := u.syns.Swap(id, seq+1); known {
		return
	}
	u.count.Add(1)
	time.AfterFunc(unrefusedFor, func() {
		u.syns.Delete(id)
		u.count.Add(-1)
	})
}

// holds reports whether a segment to the host is a reset of such a SYN.
func (u *unrefused) holds(pkt *stack.PacketBuffer) bool {
	segment := header.TCP(pkt.TransportHeader().Slice())
	if u.count.Load() == 0 || segment.Flags() != header.TCPFlagRst|header.TCPFlagAck {
		return false
	}
	ack, known := u.syns.Load(stack.TransportEndpointID{
		LocalPort: segment.SourcePort(), LocalAddress: pkt.Network().SourceAddress(),
		RemotePort: segment.DestinationPort(), RemoteAddress: pkt.Network().DestinationAddress(),
	})
	return known && ack == segment.AckNumber()
}

// transport finds the protocol of a packet that passed Header.Check and where
// its header begins. Fragments and unknown chains give protocol 255, which
// nobody speaks.
func transport(ip []byte) (proto uint8, l4 int) {
	const none = 255
	if ip[0]>>4 == 4 {
		if binary.BigEndian.Uint16(ip[6:])&0x3fff != 0 {
			return none, 0
		}
		return ip[9], int(ip[0]&15) * 4
	}
	proto, l4 = ip[6], 40
	for range 8 {
		if proto != 0 && proto != 60 { // hop-by-hop and destination options
			return proto, l4
		}
		if l4+8 > len(ip) {
			return none, 0
		}
		proto, l4 = ip[l4], l4+8+int(ip[l4+1])*8
	}
	return none, 0
}

// tcpEnd is where the TCP header ends that begins at l4; where the packet ends,
// if it is cut off.
func tcpEnd(ip []byte, l4 int) int {
	if len(ip) < l4+20 {
		return len(ip)
	}
	return min(l4+int(ip[l4+12]>>4)*4, len(ip))
}

// icmp handles an ICMP error: one about a connection that is being dialled
// fails the dial, "too big" goes to gVisor, which shortens its segments. Others
// are ignored, as RFC 1122 section 4.2.3.9 wants it for open connections.
func (s *Stack) icmp(ip []byte, l4 int) {
	if len(ip) < l4+8 {
		s.link.filtered.Add(1)
		return
	}
	v6 := ip[0]>>4 == 6
	kind, code := ip[l4], ip[l4+1]
	switch {
	case !v6 && kind == 3 && code == 4, v6 && kind == 2:
		s.link.deliver(ip, len(ip))
	case !v6 && kind == 3, v6 && kind == 1:
		if key, ok := quoted(ip[l4+8:]); ok {
			s.failDial(key, unreachableError(v6, code))
		}
	case !v6 && (kind == 11 || kind == 12), v6 && (kind == 3 || kind == 4):
	default:
		s.link.filtered.Add(1)
	}
}

// quoted reads the two ends of the TCP segment that an ICMP error quotes. The
// segment was sent by this side.
func quoted(b []byte) (key flowKey, ok bool) {
	if len(b) < 20 {
		return flowKey{}, false
	}
	var src, dst netip.Addr
	l4 := int(b[0]&15) * 4
	switch {
	case b[0]>>4 == 4 && b[9] == protoTCP && l4 >= 20:
		src, dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	case b[0]>>4 == 6 && len(b) >= 40 && b[6] == protoTCP:
		src, dst, l4 = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])), 40
	default:
		return flowKey{}, false
	}
	if len(b) < l4+4 {
		return flowKey{}, false
	}
	return flowKey{
		netip.AddrPortFrom(src, binary.BigEndian.Uint16(b[l4:])),
		netip.AddrPortFrom(dst, binary.BigEndian.Uint16(b[l4+2:])),
	}, true
}

// unreachableError translates the code of "destination unreachable" (RFC 792,
// RFC 1122 section 3.2.2.1, RFC 4443 section 3.1) as Linux does.
func unreachableError(v6 bool, code uint8) error {
	if v6 {
		switch code {
		case 0, 5, 6: // no route, failed policy, reject route
			return ErrNetUnreachable
		case 4:
			return ErrRefused
		}
		return ErrHostUnreachable
	}
	switch code {
	case 0, 6, 9, 11: // net unreachable, unknown, prohibited, for this service
		return ErrNetUnreachable
	case 2, 3: // protocol, port
		return ErrRefused
	}
	return ErrHostUnreachable
}
