package packet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"
)

var (
	a4, b4 = netip.MustParseAddr("100.100.1.2"), netip.MustParseAddr("100.100.9.9")
	w1, w2 = netip.MustParseAddr("0.0.0.1"), netip.MustParseAddr("0.0.0.2")
	a6, b6 = netip.MustParseAddr("fd6e:6f64:6574::1"), netip.MustParseAddr("fd6e:6f64:6574::2")
)

// build makes a whole packet with right checksums.
func build(proto uint8, src, dst netip.Addr, l4 []byte) []byte {
	ip := appendHeader(nil, proto, src, dst, len(l4))
	at := len(ip)
	ip = append(ip, l4...)
	fixChecksum(ip, proto, at)
	return ip
}

// checksumField is where the upper layer has its checksum, nil for protocols
// without one.
func checksumField(ip []byte, proto uint8, at int) []byte {
	offset, ok := map[uint8]int{protoTCP: 16, protoUDP: 6, protoICMP: 2, protoICMPv6: 2}[proto]
	if !ok {
		return nil
	}
	return ip[at+offset : at+offset+2]
}

func fixChecksum(ip []byte, proto uint8, at int) {
	field := checksumField(ip, proto, at)
	if field == nil {
		return
	}
	clear(field)
	c := referenceL4(ip, proto, at)
	if proto == protoUDP && c == 0 {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(field, c)
}

func udp(sport, dport uint16, payload string) []byte {
	b := binary.BigEndian.AppendUint16(nil, sport)
	b = binary.BigEndian.AppendUint16(b, dport)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	return append(append(b, 0, 0), payload...)
}

func tcp(sport, dport uint16, flags uint8, seq, ack uint32, payload string) []byte {
	b := binary.BigEndian.AppendUint16(nil, sport)
	b = binary.BigEndian.AppendUint16(b, dport)
	b = binary.BigEndian.AppendUint32(b, seq)
	b = binary.BigEndian.AppendUint32(b, ack)
	return append(append(b, 5<<4, flags, 255, 255, 0, 0, 0, 0), payload...)
}

func echo(kind uint8, id uint16, payload string) []byte {
	b := []byte{kind, 0, 0, 0}
	b = binary.BigEndian.AppendUint16(b, id)
	return append(append(b, 0, 1), payload...)
}

// valid reports what is wrong with the checksums of a whole packet.
func valid(ip []byte) error {
	i, err := Parse(ip)
	if err != nil {
		return err
	}
	if i.Version == 4 {
		if c := reference(ip[:i.L4]); c != 0 {
			return fmt.Errorf("header checksum is off by %#x", c)
		}
	}
	switch i.Proto {
	case protoTCP, protoUDP, protoICMP, protoICMPv6:
		field := checksumField(ip, i.Proto, i.L4)
		if i.Proto == protoUDP && binary.BigEndian.Uint16(field) == 0 {
			return nil
		}
		if c := referenceL4(ip, i.Proto, i.L4); c != 0 {
			return fmt.Errorf("checksum of protocol %d is off by %#x", i.Proto, c)
		}
	}
	return nil
}

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		name string
		ip   []byte
		want Info
	}{
		{"udp4", build(protoUDP, a4, b4, udp(5, 53, "x")), Info{Version: 4, Src: a4, Dst: b4, Proto: protoUDP, SrcPort: 5, DstPort: 53, L4: 20}},
		{"tcp6", build(protoTCP, a6, b6, tcp(1, 22, 2, 0, 0, "")), Info{Version: 6, Src: a6, Dst: b6, Proto: protoTCP, SrcPort: 1, DstPort: 22, L4: 40, TCPFlags: 2}},
		{"icmp4", build(protoICMP, a4, b4, echo(8, 7, "")), Info{Version: 4, Src: a4, Dst: b4, Proto: protoICMP, L4: 20, ICMPType: 8}},
		{"icmp6", build(protoICMPv6, a6, b6, echo(128, 7, "")), Info{Version: 6, Src: a6, Dst: b6, Proto: protoICMPv6, L4: 40, ICMPType: 128}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Parse(tc.ip)
			if err != nil || got != tc.want {
				t.Errorf("%+v, %v\nwant %+v", got, err, tc.want)
			}
		})
	}
}

// with6 makes an IPv6 UDP packet with extension headers in front.
func with6(first uint8, extensions []byte) []byte {
	rest := append(bytes.Clone(extensions), udp(1, 2, "")...)
	ip := appendHeader(nil, first, a6, b6, len(rest))
	return append(ip, rest...)
}

// padded makes an options header of so many bytes.
func padded(next uint8, size int) []byte {
	return append([]byte{next, uint8(size/8 - 1)}, make([]byte, size-2)...)
}

// S14: what is not understood to its end, and what routes by itself, is refused.
func TestHeaderChain(t *testing.T) {
	options := func(next uint8) []byte { return []byte{next, 0, 1, 4, 0, 0, 0, 0} }
	var nine []byte
	for range 8 {
		nine = append(nine, options(protoDestOpts)...)
	}
	nine = append(nine, options(protoUDP)...)
	sourceRoute := bytes.Clone(build(protoUDP, a4, b4, append([]byte{131, 3, 4, 0}, udp(1, 2, "")...)))
	sourceRoute[0] = 0x46
	long := append([]byte{protoUDP, 32}, make([]byte, 33*8-2)...)

	for _, tc := range []struct {
		name string
		ip   []byte
		want error
	}{
		{"hop by hop, destination", with6(protoHopByHop, append(options(protoDestOpts), options(protoUDP)...)), nil},
		{"hop by hop later", with6(protoDestOpts, append(options(protoHopByHop), options(protoUDP)...)), ErrHeaderChain},
		{"routing header", with6(protoRouting, []byte{protoUDP, 0, 0, 0, 0, 0, 0, 0}), ErrHeaderChain},
		{"mobility header", with6(135, options(protoUDP)), ErrHeaderChain},
		{"authentication header", with6(protoAuth, options(protoUDP)), ErrHeaderChain},
		{"eight headers", with6(protoDestOpts, append(bytes.Clone(nine[:7*8]), options(protoUDP)...)), nil},
		{"256 bytes", with6(protoDestOpts, padded(protoUDP, 256)), nil},
		{"264 bytes by a fragment header", with6(protoDestOpts, append(padded(protoFragment, 256), protoUDP, 0, 0, 0, 0, 0, 0, 1)), ErrHeaderChain},
		{"option that does not parse", with6(protoDestOpts, []byte{protoUDP, 0, 1, 99, 0, 0, 0, 0}), ErrHeaderChain},
		{"header beyond the packet", with6(protoDestOpts, []byte{protoUDP, 5, 0, 0, 0, 0, 0, 0}), ErrTruncated},
		{"nine headers", with6(protoDestOpts, nine), ErrHeaderChain},
		{"more than 256 bytes", with6(protoDestOpts, long), ErrHeaderChain},
		{"jumbo", with6(protoHopByHop, []byte{protoUDP, 0, 0xc2, 4, 0, 1, 0, 0}), ErrHeaderChain},
		{"two fragment headers", with6(protoFragment, append([]byte{protoFragment, 0, 0, 0, 0, 0, 0, 1}, protoUDP, 0, 0, 0, 0, 0, 0, 1)), ErrHeaderChain},
		{"IPv4 source route", sourceRoute, ErrHeaderChain},
		{"header cut", build(protoUDP, a4, b4, udp(1, 2, ""))[:10], ErrTruncated},
		{"wrong length", append(build(protoUDP, a4, b4, udp(1, 2, "")), 0), ErrLength},
		{"no version", []byte{0x10, 0}, ErrVersion},
		{"empty", nil, ErrTruncated},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := Parse(tc.ip); !errors.Is(err, tc.want) {
				t.Errorf("%v, want %v", err, tc.want)
			}
		})
	}
}

// S14: a first fragment must hold the whole upper-layer header.
func TestTinyFirstFragment(t *testing.T) {
	ip := build(protoTCP, a4, b4, tcp(1, 22, 2, 0, 0, ""))[:20+8]
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	binary.BigEndian.PutUint16(ip[6:], 0x2000)
	if _, err := Parse(ip); !errors.Is(err, ErrTruncated) {
		t.Errorf("%v, want %v", err, ErrTruncated)
	}
}

// Wherever a packet is cut, with its length field as it was or set right, Parse
// answers with an error or with what is there, and nothing reads beyond.
func TestParseCut(t *testing.T) {
	options := []byte{protoUDP, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	for _, whole := range [][]byte{
		build(protoUDP, a4, b4, udp(1, 2, "payload")),
		build(protoTCP, a6, b6, tcp(1, 2, 2, 3, 4, "payload")),
		with6(protoHopByHop, options),
		fragments6(build(protoUDP, a6, b6, udp(1, 2, "payload and more")), 16)[0],
		AppendUnreachable(nil, build(protoTCP, a4, b4, tcp(1, 2, 2, 3, 4, "payload")), NoRoute, b4),
		AppendUnreachable(nil, with6(protoHopByHop, options), NoRoute, b6),
	} {
		for n := range whole {
			ip := bytes.Clone(whole[:n:n])
			if _, err := Parse(ip); err == nil {
				t.Errorf("%x cut to %d bytes is taken", whole, n)
			}
			if !setLength(ip) {
				continue
			}
			i, err := Parse(ip)
			if err != nil {
				continue
			}
			if i.L4 > len(ip) {
				t.Errorf("%x: upper layer at %d", ip, i.L4)
			}
			_, _ = Quoted(ip, i)
			_ = TranslateV4(ip, w1, w2)
			_ = AppendRST(nil, ip)
		}
	}
}

// setLength makes the length field say what is there.
func setLength(ip []byte) bool {
	switch {
	case len(ip) >= ipv4Len && ip[0]>>4 == 4:
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	case len(ip) >= ipv6Len && ip[0]>>4 == 6:
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-ipv6Len))
	default:
		return false
	}
	return true
}

func TestParseFragments(t *testing.T) {
	payload := string(make([]byte, 100))
	for _, tc := range []struct {
		name string
		ip   []byte
		want Info
	}{
		{"IPv4, first", fragments4(build(protoUDP, a4, b4, udp(5, 53, payload)), 64)[0], Info{Fragment: true, MoreFragments: true, SrcPort: 5, DstPort: 53, L4: 20, dataAt: 20}},
		{"IPv4, last", fragments4(build(protoUDP, a4, b4, udp(5, 53, payload)), 64)[1], Info{Fragment: true, FragOffset: 64, L4: 20, dataAt: 20}},
		{"IPv6, first", fragments6(build(protoUDP, a6, b6, udp(5, 53, payload)), 64)[0], Info{Fragment: true, MoreFragments: true, FragID: 42, SrcPort: 5, DstPort: 53, L4: 48, dataAt: 48, nextAt: 6}},
		{"IPv6, last", fragments6(build(protoUDP, a6, b6, udp(5, 53, payload)), 64)[1], Info{Fragment: true, FragOffset: 64, FragID: 42, L4: 48, dataAt: 48, nextAt: 6}},
		{"IPv6, the only one", fragments6(build(protoUDP, a6, b6, udp(5, 53, "")), 64)[0], Info{Fragment: true, FragID: 42, SrcPort: 5, DstPort: 53, L4: 48, dataAt: 48, nextAt: 6}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.want.Version, tc.want.Proto, tc.want.Src, tc.want.Dst = tc.ip[0]>>4, protoUDP, a4, b4
			if tc.want.Version == 6 {
				tc.want.Src, tc.want.Dst = a6, b6
			}
			if got, err := Parse(tc.ip); err != nil || got != tc.want {
				t.Errorf("%+v, %v\nwant %+v", got, err, tc.want)
			}
		})
	}
}

func TestIsICMPError(t *testing.T) {
	for _, tc := range []struct {
		name string
		i    Info
		want bool
	}{
		{"unreachable", Info{Version: 4, Proto: protoICMP, ICMPType: 3}, true},
		{"time exceeded", Info{Version: 4, Proto: protoICMP, ICMPType: 11}, true},
		{"parameter problem", Info{Version: 4, Proto: protoICMP, ICMPType: 12}, true},
		{"echo", Info{Version: 4, Proto: protoICMP, ICMPType: 8}, false},
		{"echo reply", Info{Version: 4, Proto: protoICMP}, false},
		{"later fragment", Info{Version: 4, Proto: protoICMP, ICMPType: 3, FragOffset: 8}, false},
		{"IPv6, too big", Info{Version: 6, Proto: protoICMPv6, ICMPType: 2}, true},
		{"IPv6, echo", Info{Version: 6, Proto: protoICMPv6, ICMPType: 128}, false},
		{"ICMP of the other version", Info{Version: 6, Proto: protoICMP, ICMPType: 3}, false},
		{"udp", Info{Version: 4, Proto: protoUDP}, false},
	} {
		if got := IsICMPError(tc.i); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

// quoting makes an ICMP error that quotes whatever bytes are given.
func quoting(src, dst netip.Addr, inner []byte) []byte {
	if src.Is4() {
		return build(protoICMP, src, dst, append([]byte{3, 3, 0, 0, 0, 0, 0, 0}, inner...))
	}
	return build(protoICMPv6, src, dst, append([]byte{1, 4, 0, 0, 0, 0, 0, 0}, inner...))
}

// S14: what an error quotes is read as far as it goes and no further.
func TestQuoted(t *testing.T) {
	options := []byte{protoUDP, 0, 1, 4, 0, 0, 0, 0}
	later := fragments4(build(protoUDP, a4, b4, udp(5, 53, string(make([]byte, 100)))), 64)[1]
	for _, tc := range []struct {
		name  string
		outer []byte
		want  Info // of the quoted packet
		err   error
	}{
		{"udp", quoting(b4, a4, build(protoUDP, a4, b4, udp(5, 53, "x"))), Info{Src: a4, Dst: b4, Proto: protoUDP, SrcPort: 5, DstPort: 53, L4: 48}, nil},
		{"tcp, ports alone", quoting(b4, a4, build(protoTCP, a4, b4, tcp(5, 22, 2, 0, 0, ""))[:24]), Info{Src: a4, Dst: b4, Proto: protoTCP, SrcPort: 5, DstPort: 22, L4: 48}, nil},
		{"tcp, not even ports", quoting(b4, a4, build(protoTCP, a4, b4, tcp(5, 22, 2, 0, 0, ""))[:23]), Info{Src: a4, Dst: b4, Proto: protoTCP, L4: 48}, nil},
		{"echo", quoting(b4, a4, build(protoICMP, a4, b4, echo(8, 7, ""))), Info{Src: a4, Dst: b4, Proto: protoICMP, ICMPType: 8, L4: 48}, nil},
		{"options", quoting(b4, a4, withOptions(build(protoUDP, a4, b4, udp(5, 53, "")), 4)), Info{Src: a4, Dst: b4, Proto: protoUDP, SrcPort: 5, DstPort: 53, L4: 52}, nil},
		{"later fragment", quoting(b4, a4, later), Info{Src: a4, Dst: b4, Proto: protoUDP, L4: 48, Fragment: true, FragOffset: 64, dataAt: 20}, nil},
		{"IPv6 udp", quoting(b6, a6, build(protoUDP, a6, b6, udp(5, 53, "x"))), Info{Src: a6, Dst: b6, Proto: protoUDP, SrcPort: 5, DstPort: 53, L4: 88}, nil},
		{"IPv6 options", quoting(b6, a6, with6(protoDestOpts, options)), Info{Src: a6, Dst: b6, Proto: protoUDP, SrcPort: 1, DstPort: 2, L4: 96}, nil},
		{"cut in the header", quoting(b4, a4, build(protoUDP, a4, b4, udp(5, 53, "x"))[:19]), Info{}, ErrTruncated},
		{"cut in the options of IPv6", quoting(b6, a6, with6(protoDestOpts, options)[:41]), Info{}, ErrTruncated},
		{"routing header", quoting(b6, a6, with6(protoRouting, options)), Info{}, ErrHeaderChain},
		{"the other version", quoting(b4, a4, build(protoUDP, a6, b6, udp(5, 53, "x"))), Info{}, ErrTruncated},
		{"nothing", quoting(b4, a4, nil), Info{}, ErrTruncated},
		{"no error", build(protoICMP, a4, b4, echo(8, 7, "a packet would be here")), Info{}, ErrTruncated},
	} {
		t.Run(tc.name, func(t *testing.T) {
			i, err := Parse(tc.outer)
			if err != nil {
				t.Fatal(err)
			}
			if tc.err == nil {
				tc.want.Version = i.Version
			}
			if got, err := Quoted(tc.outer, i); !errors.Is(err, tc.err) || got != tc.want {
				t.Errorf("%+v, %v\nwant %+v, %v", got, err, tc.want, tc.err)
			}
		})
	}
}

func TestForbidden(t *testing.T) {
	for _, tc := range []struct {
		name string
		i    Info
		want bool
	}{
		{"udp", Info{Version: 4, Proto: protoUDP}, false},
		{"IPv4 in IP", Info{Version: 4, Proto: 4}, true},
		{"IPv6 in IP", Info{Version: 6, Proto: 41}, true},
		{"GRE", Info{Version: 4, Proto: 47}, true},
		{"redirect", Info{Version: 4, Proto: protoICMP, ICMPType: 5}, true},
		{"echo", Info{Version: 4, Proto: protoICMP, ICMPType: 8}, false},
		{"router advertisement", Info{Version: 6, Proto: protoICMPv6, ICMPType: 134}, true},
		{"redirect, IPv6", Info{Version: 6, Proto: protoICMPv6, ICMPType: 137}, true},
		{"listener report", Info{Version: 6, Proto: protoICMPv6, ICMPType: 143}, true},
		{"echo, IPv6", Info{Version: 6, Proto: protoICMPv6, ICMPType: 128}, false},
		{"ICMP of the other version", Info{Version: 6, Proto: protoICMP}, true},
	} {
		if got := Forbidden(tc.i); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestBadAddr(t *testing.T) {
	for _, bad := range []string{
		"127.0.0.1", "0.0.0.0", "0.0.0.9", "224.0.0.1", "255.255.255.255", "169.254.1.1", "::1", "::", "ff02::1", "fe80::1",
		"::ffff:10.0.0.1", "::10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::",
	} {
		if !BadAddr(netip.MustParseAddr(bad)) {
			t.Errorf("%s passes", bad)
		}
	}
	for _, good := range []string{"10.0.0.1", "100.100.1.1", "fd6e:6f64:6574::1", "2001:db8::1"} {
		if BadAddr(netip.MustParseAddr(good)) {
			t.Errorf("%s is refused", good)
		}
	}
	if !BadAddr(netip.Addr{}) {
		t.Error("no address passes")
	}
}
