package engine

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/wire"
)

// ip6 is an IPv6 packet with a first next header.
func ip6(src, dst netip.Addr, next byte, payload ...byte) []byte {
	ip := []byte{0x60, 0, 0, 0, byte(len(payload) >> 8), byte(len(payload)), next, 64}
	ip = append(ip, src.AsSlice()...)
	ip = append(ip, dst.AsSlice()...)
	return append(ip, payload...)
}

// ip4 is an IPv4 packet with options, as it travels in the tunnel: every sender is 0.0.0.1
// and every receiver 0.0.0.2 (S17).
func ip4(proto byte, options []byte, payload ...byte) []byte {
	ip := make([]byte, 20, 20+len(options)+len(payload))
	ip[0] = byte(4<<4 | (20+len(options))/4)
	binary.BigEndian.PutUint16(ip[2:], uint16(cap(ip)))
	ip[8], ip[9] = 64, proto
	ip[15], ip[19] = 1, 2
	ip = append(ip, options...)
	return append(ip, payload...)
}

// zeros is a payload that is long enough for any header.
func zeros(n int) []byte { return make([]byte, n) }

// fragment6 is the fragment header (RFC 8200 4.5) of a UDP packet and a part of it.
func fragment6(id byte, offset int, more bool, part ...byte) []byte {
	at := uint16(offset)
	if more {
		at |= 1
	}
	return append([]byte{protoUDP, 0, byte(at >> 8), byte(at), 0, 0, 0, id}, part...)
}

// icmp6 is an ICMPv6 message.
func icmp6(kind byte, body ...byte) []byte { return append([]byte{kind, 0, 0, 0, 0, 0, 0, 0}, body...) }

// S13, S14: what no rule lets through is dropped and counted, under a few rules and under all;
// nothing of it reaches the host.
func TestForbiddenPackets(t *testing.T) {
	for _, rules := range []string{"all", "udp/53 icmp"} {
		t.Run(rules, func(t *testing.T) {
			victim := startNode(t, nil, nil, testPool)
			s := hostile(t, victim, strings.Fields(rules)...)
			from, to := s.ends.Local6, s.ends.Remote6
			other := netip.MustParseAddr("fd6e:6f64:6574::99")
			options := func(n int) (chain []byte) {
				for range n - 1 {
					chain = append(chain, 60, 0, 1, 4, 0, 0, 0, 0) // destination options, and again
				}
				return append(append(chain, protoUDP, 0, 1, 4, 0, 0, 0, 0), zeros(8)...)
			}
			quoting := func(quoted []byte) []byte { return ip6(from, to, protoICMPv6, icmp6(1, quoted...)...) }
			for _, tc := range []struct {
				name    string
				packet  []byte
				counter string
			}{
				{"IPv4 in IPv6", ip6(from, to, 4, zeros(40)...), "forbidden"},
				{"IPv6 in IPv6", ip6(from, to, 41, zeros(60)...), "forbidden"},
				{"GRE", ip6(from, to, 47, zeros(40)...), "forbidden"},
				{"routing header", ip6(from, to, 43, append([]byte{protoUDP, 0, 4, 0, 0, 0, 0, 0}, zeros(8)...)...), "malformed"},
				{"authentication header", ip6(from, to, 51, zeros(40)...), "malformed"},
				{"mobility header", ip6(from, to, 135, zeros(40)...), "malformed"},
				{"jumbogram", ip6(from, to, 0, append([]byte{protoUDP, 0, 0xc2, 4, 0, 1, 0, 0}, zeros(8)...)...), "malformed"},
				{"nine extension headers", ip6(from, to, 60, options(9)...), "malformed"},
				{"hop-by-hop, not first", ip6(from, to, 60, append([]byte{0, 0, 1, 4, 0, 0, 0, 0, protoUDP, 0, 1, 4, 0, 0, 0, 0}, zeros(8)...)...), "malformed"},
				{"no header at all", ip6(from, to, protoUDP, zeros(7)...), "malformed"},
				{"TCP outside of streams", ip6(from, to, protoTCP, append(append(zeros(12), 5<<4, 2), zeros(6)...)...), "carrier"},
				{"redirect", ip6(from, to, protoICMPv6, icmp6(137, zeros(32)...)...), "forbidden"},
				{"router advertisement", ip6(from, to, protoICMPv6, icmp6(134, zeros(8)...)...), "forbidden"},
				{"neighbour solicitation", ip6(from, to, protoICMPv6, icmp6(135, zeros(16)...)...), "forbidden"},
				{"multicast listener report", ip6(from, to, protoICMPv6, icmp6(143, zeros(16)...)...), "forbidden"},
				{"ICMPv4 in IPv6", ip6(from, to, protoICMP, zeros(8)...), "forbidden"},
				{"error about nothing", quoting(nil), "forbidden"},
				{"error about a flow that is none", quoting(udpPacket(netip.AddrPortFrom(to, 53), netip.AddrPortFrom(from, 5000), "question")), "forbidden"},
				{"error about a flow with another peer", quoting(udpPacket(netip.AddrPortFrom(to, 53), netip.AddrPortFrom(other, 5000), "question")), "forbidden"},
				{"error about a TCP flow", quoting(ip6(to, from, protoTCP, zeros(20)...)), "forbidden"},
				{"error about an error", quoting(ip6(to, from, protoICMPv6, icmp6(1, zeros(8)...)...)), "forbidden"},

				{"NAT64 source", ip6(netip.MustParseAddr("64:ff9b::a00:1"), to, protoUDP, zeros(8)...), "source"},
				{"6to4 source", ip6(netip.MustParseAddr("2002:a00:1::1"), to, protoUDP, zeros(8)...), "source"},
				{"v4-mapped source", ip6(netip.MustParseAddr("::ffff:10.0.0.1"), to, protoUDP, zeros(8)...), "source"},
				{"v4-compatible source", ip6(netip.MustParseAddr("::10.0.0.1"), to, protoUDP, zeros(8)...), "source"},
				{"link-local source", ip6(netip.MustParseAddr("fe80::1"), to, protoUDP, zeros(8)...), "source"},
				{"NAT64 destination", ip6(from, netip.MustParseAddr("64:ff9b::a00:1"), protoUDP, zeros(8)...), "destination"},
				{"6to4 destination", ip6(from, netip.MustParseAddr("2002:a00:1::1"), protoUDP, zeros(8)...), "destination"},
				{"v4-mapped destination", ip6(from, netip.MustParseAddr("::ffff:127.0.0.1"), protoUDP, zeros(8)...), "destination"},
				{"all nodes", ip6(from, netip.MustParseAddr("ff02::1"), protoUDP, zeros(8)...), "destination"},

				{"IPv6 in IPv4", ip4(41, nil, zeros(60)...), "forbidden"},
				{"IPv4 in IPv4", ip4(4, nil, zeros(40)...), "forbidden"},
				{"GRE in IPv4", ip4(47, nil, zeros(40)...), "forbidden"},
				{"IPv4 redirect", ip4(protoICMP, nil, append([]byte{5, 1, 0, 0, 10, 0, 0, 1}, zeros(28)...)...), "forbidden"},
				{"ICMPv6 in IPv4", ip4(protoICMPv6, nil, zeros(8)...), "forbidden"},
				{"IPv4 source route", ip4(protoUDP, []byte{131, 7, 4, 10, 0, 0, 1, 0}, zeros(8)...), "decode"},
				{"IPv4 length that lies", append(ip4(protoUDP, nil, zeros(8)...), 0), "decode"},
			} {
				t.Run(tc.name, func(t *testing.T) { s.refused(t, victim, tc.packet, tc.counter) })
			}
			select {
			case ip := <-victim.host.packets:
				t.Errorf("a packet reached the host: %x", ip)
			default:
			}
		})
	}
}

// refused sends a packet and wants it counted.
func (s *session) refused(t *testing.T, victim *node, ip []byte, counter string) {
	t.Helper()
	before := victim.engine.Dropped()
	if err := s.conn.SendDatagram(append([]byte{wire.KindWhole}, ip...)); err != nil {
		t.Fatal(err)
	}
	for begin := time.Now(); victim.engine.Dropped()[counter] == before[counter]; time.Sleep(time.Millisecond) {
		if time.Since(begin) > 10*time.Second {
			t.Fatalf("not counted as %s: before %v, now %v", counter, before, victim.engine.Dropped())
		}
	}
}

// S14: rules judge whole packets. What is cut so that each part looks harmless, or that the
// host would put together in another way than the judge, does not pass.
func TestForbiddenFragments(t *testing.T) {
	victim := startNode(t, nil, nil, testPool)
	s := hostile(t, victim, "udp/53")
	from, to := s.ends.Local6, s.ends.Remote6
	allowed := udpPacket(netip.AddrPortFrom(from, 5000), netip.AddrPortFrom(to, 53), string(zeros(40)))[40:]
	refused := udpPacket(netip.AddrPortFrom(from, 5000), netip.AddrPortFrom(to, 22), string(zeros(40)))[40:]
	send := func(id byte, offset int, more bool, part []byte) {
		t.Helper()
		ip := ip6(from, to, 44, fragment6(id, offset, more, part...)...)
		if err := s.conn.SendDatagram(append([]byte{wire.KindWhole}, ip...)); err != nil {
			t.Fatal(err)
		}
	}

	// A whole that is allowed passes, in one piece: the way is there.
	send(1, 0, true, allowed[:24])
	send(1, 24, false, allowed[24:])
	if got := victim.host.next(t); len(got) != 40+len(allowed) || got[6] != protoUDP {
		t.Errorf("put together: %x", got)
	}

	part := func(id byte, offset int, more bool, part []byte) []byte {
		return ip6(from, to, 44, fragment6(id, offset, more, part...)...)
	}
	send(2, 24, false, refused[24:]) // waits
	send(3, 0, true, allowed[:24])   // and so do the first ones of those below
	send(4, 0, true, allowed[:24])
	send(5, 0, true, allowed[:24])
	for _, tc := range []struct {
		name    string
		packet  []byte
		counter string
	}{
		{"a port that is not allowed, the rest first", part(2, 0, true, refused[:24]), "rules"},
		{"another port written over the first", part(3, 0, true, refused[:24]), "fragment"},
		{"overlap", part(4, 16, false, allowed[16:]), "fragment"},
		{"beyond the end of a packet", part(5, 65528, false, zeros(16)), "fragment"},
		{"half a header", part(6, 0, true, allowed[:4]), "malformed"},
		{"half a TCP header", ip6(from, to, 44, append([]byte{protoTCP, 0, 0, 1, 0, 0, 0, 7}, zeros(8)...)...), "malformed"},
		{"a fragment in a fragment", ip6(from, to, 44, append([]byte{44, 0, 0, 1, 0, 0, 0, 8}, fragment6(9, 0, true, allowed[:24]...)...)...), "malformed"},
	} {
		t.Run(tc.name, func(t *testing.T) { s.refused(t, victim, tc.packet, tc.counter) })
	}
	select {
	case ip := <-victim.host.packets:
		t.Errorf("a packet reached the host: %x", ip)
	default:
	}
}
