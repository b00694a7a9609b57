package packet

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// Info is what the headers of an IP packet say.
type Info struct {
	Version  uint8 // 4 or 6
	Src, Dst netip.Addr
	// Proto is the upper-layer protocol, after all extension headers.
	Proto uint8
	// SrcPort and DstPort are those of TCP and UDP, else 0. Fragments after the
	// first have none.
	SrcPort, DstPort uint16
	// L4 is the offset of the upper-layer header, or of a later fragment's data.
	L4 int
	// Fragment is set for every fragment; MoreFragments and FragOffset (bytes)
	// say which, FragID which packet it belongs to.
	Fragment, MoreFragments bool
	FragOffset              int
	FragID                  uint32
	// ICMPType and ICMPCode are those of ICMP and ICMPv6, else 0.
	ICMPType, ICMPCode uint8
	// TCPFlags are the flag bits of byte 13 of a TCP header, else 0.
	TCPFlags uint8

	// dataAt is where the data of a fragment begins, from which FragOffset
	// counts: L4 comes later when extension headers follow the fragment header.
	// nextAt is where the number of the fragment header stands (IPv6).
	dataAt, nextAt int
}

// Errors of Parse.
var (
	ErrTruncated   = errors.New("packet: cut short")
	ErrLength      = errors.New("packet: length fields disagree")
	ErrVersion     = errors.New("packet: neither IPv4 nor IPv6")
	ErrHeaderChain = errors.New("packet: header chain refused")
)

// Protocol numbers (IANA).
const (
	protoHopByHop = 0
	protoICMP     = 1
	protoTCP      = 6
	protoUDP      = 17
	protoRouting  = 43
	protoFragment = 44
	protoAuth     = 51
	protoICMPv6   = 58
	protoDestOpts = 60
)

// Header sizes in bytes.
const (
	ipv4Len = 20
	ipv6Len = 40
	tcpLen  = 20
	udpLen  = 8
)

// Limits of an IPv6 header chain (S14).
const (
	maxExtensions     = 8
	maxExtensionBytes = 256
)

// Parse walks the whole header chain of an IP packet. A packet whose chain is
// not understood to its end is an error, as are source routes, jumbograms, and
// a first fragment without its whole upper-layer header (S14).
func Parse(ip []byte) (Info, error) {
	if len(ip) < 1 {
		return Info{}, ErrTruncated
	}
	switch ip[0] >> 4 {
	case 4:
		return parse4(ip)
	case 6:
		return parse6(ip)
	default:
		return Info{}, ErrVersion
	}
}

func parse4(ip []byte) (Info, error) {
	if len(ip) < ipv4Len {
		return Info{}, ErrTruncated
	}
	header := int(ip[0]&0x0f) * 4
	if header < ipv4Len || len(ip) < header {
		return Info{}, ErrTruncated
	}
	if int(binary.BigEndian.Uint16(ip[2:])) != len(ip) {
		return Info{}, ErrLength
	}
	if header > ipv4Len && hasSourceRoute(ip[ipv4Len:header]) {
		return Info{}, ErrHeaderChain
	}
	i := Info{Version: 4, L4: header}
	i.readHeader4(ip)
	return i, i.parseL4(ip)
}

// readHeader4 reads the fixed part of an IPv4 header.
func (i *Info) readHeader4(ip []byte) {
	i.Proto = ip[9]
	i.Src, i.Dst = netip.AddrFrom4([4]byte(ip[12:])), netip.AddrFrom4([4]byte(ip[16:]))
	field := binary.BigEndian.Uint16(ip[6:])
	i.MoreFragments, i.FragOffset = field&0x2000 != 0, int(field&0x1fff)*8
	i.FragID = uint32(binary.BigEndian.Uint16(ip[4:]))
	if i.MoreFragments || i.FragOffset > 0 {
		i.Fragment, i.dataAt = true, i.L4
	}
}

// hasSourceRoute looks for the loose and strict source route (RFC 791 3.1)
// among IPv4 options; options that do not parse count as one.
func hasSourceRoute(options []byte) bool {
	for len(options) > 0 {
		switch options[0] {
		case 0: // end of list
			return false
		case 1: // no operation
			options = options[1:]
			continue
		case 131, 137:
			return true
		}
		if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
			return true
		}
		options = options[options[1]:]
	}
	return false
}

func parse6(ip []byte) (Info, error) {
	if len(ip) < ipv6Len {
		return Info{}, ErrTruncated
	}
	if int(binary.BigEndian.Uint16(ip[4:]))+ipv6Len != len(ip) {
		return Info{}, ErrLength
	}
	i := Info{Version: 6, L4: ipv6Len, Src: netip.AddrFrom16([16]byte(ip[8:])), Dst: netip.AddrFrom16([16]byte(ip[24:]))}
	if err := i.walk6(ip); err != nil {
		return Info{}, err
	}
	return i, i.parseL4(ip)
}

// walk6 follows the extension headers from the fixed header to the upper layer.
func (i *Info) walk6(ip []byte) error {
	next, nextAt := ip[6], 6
	for range maxExtensions + 1 {
		switch next {
		case protoHopByHop, protoDestOpts:
			if next == protoHopByHop && i.L4 != ipv6Len {
				return ErrHeaderChain // only ever the first (RFC 8200 4.1)
			}
			if len(ip) < i.L4+2 {
				return ErrTruncated
			}
			length := (int(ip[i.L4+1]) + 1) * 8
			if hasJumbo(ip[i.L4:min(i.L4+length, len(ip))]) {
				return ErrHeaderChain
			}
			next, nextAt = ip[i.L4], i.L4
			i.L4 += length
		case protoFragment:
			if i.Fragment {
				return ErrHeaderChain
			}
			if len(ip) < i.L4+8 {
				return ErrTruncated
			}
			i.readFragment6(ip, nextAt)
			next, nextAt = ip[i.L4], i.L4
			i.L4 += 8
			i.dataAt = i.L4
			if i.FragOffset > 0 {
				i.Proto = next
				return nil
			}
		case protoRouting, protoAuth, 135, 139, 140, 253, 254: // … mobility, HIP, shim6, experiments
			return ErrHeaderChain
		default:
			i.Proto = next
			return nil
		}
		switch {
		case i.L4 > len(ip):
			return ErrTruncated
		case i.L4-ipv6Len > maxExtensionBytes:
			return ErrHeaderChain
		}
	}
	return ErrHeaderChain
}

func (i *Info) readFragment6(ip []byte, nextAt int) {
	field := binary.BigEndian.Uint16(ip[i.L4+2:])
	i.Fragment, i.nextAt = true, nextAt
	i.MoreFragments = field&1 != 0
	i.FragOffset = int(field &^ 7)
	i.FragID = binary.BigEndian.Uint32(ip[i.L4+4:])
}

// hasJumbo looks for the jumbo payload option (RFC 2675) in an options header.
func hasJumbo(header []byte) bool {
	const pad1, jumbo = 0, 0xc2
	for rest := header[2:]; len(rest) > 0; {
		switch rest[0] {
		case pad1:
			rest = rest[1:]
			continue
		case jumbo:
			return true
		}
		if len(rest) < 2 || int(rest[1])+2 > len(rest) {
			return true // does not parse
		}
		rest = rest[int(rest[1])+2:]
	}
	return false
}

// parseL4 reads ports, flags and types of the upper layer, which a later
// fragment does not have.
func (i *Info) parseL4(ip []byte) error {
	if i.FragOffset > 0 {
		return nil
	}
	l4 := ip[i.L4:]
	switch {
	case i.Proto == protoTCP:
		if len(l4) < tcpLen || int(l4[12]>>4)*4 < tcpLen || len(l4) < int(l4[12]>>4)*4 {
			return ErrTruncated
		}
		i.TCPFlags = l4[13]
		i.readPorts(l4)
	case i.Proto == protoUDP:
		if len(l4) < udpLen {
			return ErrTruncated
		}
		i.readPorts(l4)
	case i.isICMP():
		if len(l4) < 8 {
			return ErrTruncated
		}
		i.ICMPType, i.ICMPCode = l4[0], l4[1]
	}
	return nil
}

func (i *Info) readPorts(l4 []byte) {
	i.SrcPort, i.DstPort = binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
}

// isICMP reports whether the packet is the ICMP of its own IP version.
func (i *Info) isICMP() bool {
	return i.Version == 4 && i.Proto == protoICMP || i.Version == 6 && i.Proto == protoICMPv6
}

// IsICMPError reports whether the packet is an ICMP error, which quotes the
// packet that it is about.
func IsICMPError(i Info) bool {
	if !i.isICMP() || i.FragOffset > 0 {
		return false
	}
	if i.Version == 6 {
		return i.ICMPType < 128
	}
	switch i.ICMPType {
	case 3, 4, 5, 11, 12: // unreachable, source quench, redirect, time exceeded, parameter problem
		return true
	default:
		return false
	}
}

// Forbidden reports whether the packet passes under no rule at all: tunnels
// inside the tunnel, redirects, and the ICMPv6 of routers and group membership
// (S14).
func Forbidden(i Info) bool {
	switch i.Proto {
	case 4, 41, 47: // IPv4, IPv6 and GRE inside IP
		return true
	case protoICMP:
		return i.Version != 4 || i.FragOffset == 0 && i.ICMPType == 5
	case protoICMPv6:
		if i.Version != 6 {
			return true
		}
		return i.FragOffset == 0 && (i.ICMPType >= 130 && i.ICMPType <= 137 || i.ICMPType == 143)
	default:
		return false
	}
}

var badPrefixes = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("255.255.255.255/32"),
	netip.MustParsePrefix("::/96"),         // unspecified, loopback, v4-compatible
	netip.MustParsePrefix("::ffff:0:0/96"), // v4-mapped
	netip.MustParsePrefix("64:ff9b::/96"),  // NAT64 (RFC 6052)
	netip.MustParsePrefix("2002::/16"),     // 6to4
}

// BadAddr reports whether an address never stands in a packet of the tunnel:
// loopback, unspecified, multicast, broadcast, link-local, or one that hides
// an IPv4 address (S13).
func BadAddr(a netip.Addr) bool {
	if !a.IsValid() || a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast() {
		return true
	}
	for _, p := range badPrefixes {
		if p.Addr().BitLen() == a.BitLen() && p.Contains(a) {
			return true
		}
	}
	return false
}

// Quoted reads the packet that an ICMP error quotes, as far as it goes; ports
// are read when they are there. Offsets in the result count from the beginning
// of ip.
func Quoted(ip []byte, i Info) (Info, error) {
	if !IsICMPError(i) || len(ip) < i.L4+8 {
		return Info{}, ErrTruncated
	}
	at := i.L4 + 8
	inner := ip[at:]
	q := Info{Version: i.Version}
	switch {
	case i.Version == 4 && len(inner) >= ipv4Len && inner[0]>>4 == 4 && int(inner[0]&0x0f)*4 >= ipv4Len:
		q.L4 = int(inner[0]&0x0f) * 4
		q.readHeader4(inner)
	case i.Version == 6 && len(inner) >= ipv6Len && inner[0]>>4 == 6:
		q.L4 = ipv6Len
		q.Src, q.Dst = netip.AddrFrom16([16]byte(inner[8:])), netip.AddrFrom16([16]byte(inner[24:]))
		if err := q.walk6(inner); err != nil {
			return Info{}, err
		}
	default:
		return Info{}, ErrTruncated
	}
	if q.FragOffset == 0 && len(inner) >= q.L4+4 {
		switch {
		case q.Proto == protoTCP, q.Proto == protoUDP:
			q.readPorts(inner[q.L4:])
		case q.isICMP():
			q.ICMPType, q.ICMPCode = inner[q.L4], inner[q.L4+1]
		}
	}
	q.L4 += at
	return q, nil
}
