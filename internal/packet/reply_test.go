package packet

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/net/icmp"
)

func TestUnreachable(t *testing.T) {
	for _, tc := range []struct {
		name   string
		orig   []byte
		from   netip.Addr
		answer bool
	}{
		{"udp4", build(protoUDP, a4, b4, udp(1, 2, "x")), b4, true},
		{"udp6", build(protoUDP, a6, b6, udp(1, 2, "x")), b6, true},
		{"large udp6", build(protoUDP, a6, b6, udp(1, 2, string(make([]byte, 1380)))), b6, true},
		{"icmp error", AppendUnreachable(nil, build(protoUDP, a4, b4, udp(1, 2, "x")), NoRoute, b4), a4, false},
		{"first fragment", fragments4(build(protoUDP, a4, b4, udp(1, 2, string(make([]byte, 100)))), 64)[0], b4, true},
		{"later fragment", fragments4(build(protoUDP, a4, b4, udp(1, 2, string(make([]byte, 100)))), 64)[1], b4, false},
		{"later fragment, IPv6", fragments6(build(protoUDP, a6, b6, udp(1, 2, string(make([]byte, 100)))), 64)[1], b6, false},
		{"echo request", build(protoICMP, a4, b4, echo(8, 1, "")), b4, true},
		{"icmp error, IPv6", AppendUnreachable(nil, build(protoUDP, a6, b6, udp(1, 2, "x")), NoRoute, b6), a6, false},
		{"redirect, IPv6", build(protoICMPv6, a6, b6, echo(137, 0, string(make([]byte, 32)))), b6, false},
		{"to broadcast", build(protoUDP, a4, netip.MustParseAddr("255.255.255.255"), udp(1, 2, "x")), b4, false},
		{"from nobody", build(protoUDP, netip.MustParseAddr("0.0.0.0"), b4, udp(1, 2, "x")), b4, false},
		{"from multicast", build(protoUDP, netip.MustParseAddr("224.0.0.1"), b4, udp(1, 2, "x")), b4, false},
		{"from link-local", build(protoUDP, netip.MustParseAddr("fe80::1"), b6, udp(1, 2, "x")), b6, false},
		{"answered by nobody", build(protoUDP, a6, b6, udp(1, 2, "x")), netip.Addr{}, false},
		{"another protocol", build(132, a4, b4, make([]byte, 12)), b4, true},
		{"multicast", build(protoUDP, a6, netip.MustParseAddr("ff02::1"), udp(1, 2, "x")), b6, false},
		{"other version", build(protoUDP, a6, b6, udp(1, 2, "x")), b4, false},
		{"garbage", []byte{0x45, 1, 2}, b4, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, code := range []Code{NoRoute, HostUnreachable, Prohibited, PortUnreachable} {
				got := AppendUnreachable(nil, tc.orig, code, tc.from)
				checkError(t, got, tc.orig, tc.from, tc.answer)
			}
			checkError(t, AppendTooBig(nil, tc.orig, 1280, tc.from), tc.orig, tc.from, tc.answer)
		})
	}
	if AppendUnreachable(nil, build(protoUDP, a4, b4, udp(1, 2, "x")), Code(9), b4) != nil {
		t.Error("an unknown code makes an answer")
	}
}

func checkError(t *testing.T, got, orig []byte, from netip.Addr, answer bool) {
	t.Helper()
	if (got != nil) != answer {
		t.Fatalf("answer = %x, want one: %v", got, answer)
	}
	if !answer {
		return
	}
	if err := valid(got); err != nil {
		t.Fatal(err)
	}
	i, _ := Parse(got)
	o, _ := Parse(orig)
	if i.Src != from || i.Dst != o.Src || !IsICMPError(i) || len(got) > 1280 {
		t.Errorf("%+v, %d bytes", i, len(got))
	}
	q, err := Quoted(got, i)
	if err != nil || q.Src != o.Src || q.Dst != o.Dst || q.SrcPort != o.SrcPort || q.DstPort != o.DstPort {
		t.Errorf("quoted %+v, %v", q, err)
	}
}

func TestRST(t *testing.T) {
	for _, tc := range []struct {
		name     string
		orig     []byte
		seq, ack uint32
		flags    uint8
	}{
		{"syn", build(protoTCP, a6, b6, tcp(1, 22, flagSYN, 100, 0, "")), 0, 101, flagRST | flagACK},
		{"data", build(protoTCP, a4, b4, tcp(1, 22, flagACK, 100, 777, "abc")), 777, 0, flagRST},
		{"fin without ack", build(protoTCP, a4, b4, tcp(1, 22, flagFIN, 100, 0, "abc")), 0, 104, flagRST | flagACK},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := AppendRST(nil, tc.orig)
			if err := valid(got); err != nil {
				t.Fatal(err)
			}
			i, _ := Parse(got)
			o, _ := Parse(tc.orig)
			seq, ack := binary.BigEndian.Uint32(got[i.L4+4:]), binary.BigEndian.Uint32(got[i.L4+8:])
			if i.Src != o.Dst || i.DstPort != o.SrcPort || i.TCPFlags != tc.flags || seq != tc.seq || ack != tc.ack {
				t.Errorf("%+v, seq %d, ack %d", i, seq, ack)
			}
		})
	}
	if AppendRST(nil, build(protoTCP, a4, b4, tcp(1, 2, flagRST, 0, 0, ""))) != nil {
		t.Error("a reset is answered")
	}
	if AppendRST(nil, build(protoUDP, a4, b4, udp(1, 2, ""))) != nil {
		t.Error("UDP is answered")
	}
}

// The bytes of the errors, read by a parser that is not ours.
func TestErrorTypes(t *testing.T) {
	orig4, orig6 := build(protoUDP, a4, b4, udp(1, 2, "x")), build(protoUDP, a6, b6, udp(1, 2, "x"))
	for _, tc := range []struct {
		name           string
		got            []byte
		typ, code, mtu int
	}{
		{"no route", AppendUnreachable(nil, orig4, NoRoute, b4), 3, 0, 0},
		{"host unreachable", AppendUnreachable(nil, orig4, HostUnreachable, b4), 3, 1, 0},
		{"prohibited", AppendUnreachable(nil, orig4, Prohibited, b4), 3, 13, 0},
		{"port unreachable", AppendUnreachable(nil, orig4, PortUnreachable, b4), 3, 3, 0},
		{"too big", AppendTooBig(nil, orig4, 1280, b4), 3, 4, 1280},
		{"too big, out of range", AppendTooBig(nil, orig4, 1<<20, b4), 3, 4, 65535},
		{"too big, negative", AppendTooBig(nil, orig4, -1, b4), 3, 4, 0},
		{"no route, IPv6", AppendUnreachable(nil, orig6, NoRoute, b6), 1, 0, 0},
		{"host unreachable, IPv6", AppendUnreachable(nil, orig6, HostUnreachable, b6), 1, 3, 0},
		{"prohibited, IPv6", AppendUnreachable(nil, orig6, Prohibited, b6), 1, 1, 0},
		{"port unreachable, IPv6", AppendUnreachable(nil, orig6, PortUnreachable, b6), 1, 4, 0},
		{"too big, IPv6", AppendTooBig(nil, orig6, 1280, b6), 2, 0, 1280},
	} {
		t.Run(tc.name, func(t *testing.T) {
			i, err := Parse(tc.got)
			if err != nil {
				t.Fatal(err)
			}
			m, err := icmp.ParseMessage(int(i.Proto), tc.got[i.L4:])
			if err != nil {
				t.Fatal(err)
			}
			if int(i.ICMPType) != tc.typ || m.Code != tc.code {
				t.Errorf("type %d, code %d", i.ICMPType, m.Code)
			}
			orig := orig4
			if i.Version == 6 {
				orig = orig6
			}
			switch body := m.Body.(type) {
			case *icmp.DstUnreach:
				if !bytes.Equal(body.Data, orig) {
					t.Errorf("quotes %x", body.Data)
				}
			case *icmp.PacketTooBig:
				if body.MTU != tc.mtu || !bytes.Equal(body.Data, orig) {
					t.Errorf("MTU %d, quotes %x", body.MTU, body.Data)
				}
			default:
				t.Errorf("body %T", m.Body)
			}
			if rest := binary.BigEndian.Uint32(tc.got[i.L4+4:]); int(rest) != tc.mtu {
				t.Errorf("last word %d, want %d", rest, tc.mtu)
			}
		})
	}
}

// An error quotes as much as its size allows, and no more (RFC 1812 4.3.2.3,
// RFC 4443 2.4 c).
func TestErrorSize(t *testing.T) {
	for _, tc := range []struct {
		name     string
		orig     []byte
		from     netip.Addr
		overhead int
		limit    int
	}{
		{"IPv4", build(protoUDP, a4, b4, udp(1, 2, string(make([]byte, 60_000)))), b4, 28, 576},
		{"IPv6", build(protoUDP, a6, b6, udp(1, 2, string(make([]byte, 60_000)))), b6, 48, 1280},
	} {
		got := AppendUnreachable([]byte("before"), tc.orig, NoRoute, tc.from)
		if !bytes.HasPrefix(got, []byte("before")) {
			t.Fatalf("%s: what stood in dst is gone", tc.name)
		}
		got = got[6:]
		if len(got) != tc.limit || valid(got) != nil || !bytes.Equal(got[tc.overhead:], tc.orig[:tc.limit-tc.overhead]) {
			t.Errorf("%s: %d bytes, %v", tc.name, len(got), valid(got))
		}
	}
}

// RFC 9293 3.10.7.1: no reset answers a reset, a fragment or a group.
func TestNoRST(t *testing.T) {
	syn := tcp(1, 22, flagSYN, 100, 0, "")
	for name, orig := range map[string][]byte{
		"reset":         build(protoTCP, a6, b6, tcp(1, 22, flagRST|flagACK, 0, 0, "")),
		"fragment":      fragments4(build(protoTCP, a4, b4, tcp(1, 22, flagSYN, 0, 0, string(make([]byte, 100)))), 64)[0],
		"to multicast":  build(protoTCP, a6, netip.MustParseAddr("ff02::1"), syn),
		"to broadcast":  build(protoTCP, a4, netip.MustParseAddr("255.255.255.255"), syn),
		"from loopback": build(protoTCP, netip.MustParseAddr("127.0.0.1"), b4, syn),
		"cut":           build(protoTCP, a4, b4, syn)[:39],
		"nothing":       nil,
	} {
		if got := AppendRST(nil, orig); got != nil {
			t.Errorf("%s: %x", name, got)
		}
	}
	got := AppendRST([]byte("before"), build(protoTCP, a4, b4, syn))
	if !bytes.HasPrefix(got, []byte("before")) || valid(got[6:]) != nil {
		t.Errorf("appended: %x", got)
	}
}
