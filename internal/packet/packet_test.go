package packet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"
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

func checksumField(ip []byte, proto uint8, at int) []byte {
	offset := map[uint8]int{protoTCP: 16, protoUDP: 6, protoICMP: 2, protoICMPv6: 2}[proto]
	return ip[at+offset : at+offset+2]
}

func fixChecksum(ip []byte, proto uint8, at int) {
	field := checksumField(ip, proto, at)
	clear(field)
	binary.BigEndian.PutUint16(field, L4Checksum(ip, proto, at))
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
		if c := Checksum(ip[:i.L4]); c != 0 {
			return fmt.Errorf("header checksum is off by %#x", c)
		}
	}
	switch i.Proto {
	case protoTCP, protoUDP, protoICMP, protoICMPv6:
		field := checksumField(ip, i.Proto, i.L4)
		if i.Proto == protoUDP && binary.BigEndian.Uint16(field) == 0 {
			return nil
		}
		if c := L4Checksum(ip, i.Proto, i.L4); c != 0 {
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
		{"nine headers", with6(protoDestOpts, nine), ErrHeaderChain},
		{"more than 256 bytes", with6(protoDestOpts, long), ErrHeaderChain},
		{"jumbo", with6(protoHopByHop, []byte{protoUDP, 0, 0xc2, 4, 0, 1, 0, 0}), ErrHeaderChain},
		{"two fragment headers", with6(protoFragment, append([]byte{protoFragment, 0, 0, 0, 0, 0, 0, 1}, protoUDP, 0, 0, 0, 0, 0, 0, 1)), ErrHeaderChain},
		{"IPv4 source route", sourceRoute, ErrHeaderChain},
		{"header cut", build(protoUDP, a4, b4, udp(1, 2, ""))[:10], ErrTruncated},
		{"wrong length", append(build(protoUDP, a4, b4, udp(1, 2, "")), 0), ErrLength},
		{"no version", []byte{0x10, 0}, ErrVersion},
		{"empty", nil, ErrTruncated},
		{"short tcp", build(protoICMP, a4, b4, make([]byte, 8))[:20+8], nil},
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

// S17: after translation there and back the packet is the same, and in between
// every checksum is right.
func TestTranslateV4(t *testing.T) {
	inner := map[string][]byte{
		"udp":          build(protoUDP, a4, b4, udp(5, 53, "question")),
		"odd udp":      build(protoUDP, a4, b4, udp(5, 53, "odd")),
		"tcp":          build(protoTCP, a4, b4, tcp(5, 22, 2, 9, 0, "data")),
		"icmp":         build(protoICMP, a4, b4, echo(8, 1, "ping")),
		"udp, no sum":  build(protoUDP, a4, b4, udp(5, 53, "question")),
		"unknown":      build(99, a4, b4, udp(0, 0, "")),
		"large udp":    build(protoUDP, a4, b4, udp(1, 1, string(make([]byte, 1300)))),
		"tcp, no data": build(protoTCP, a4, b4, tcp(65535, 1, 16, 1<<31, 1<<31, "")),
	}
	clear(checksumField(inner["udp, no sum"], protoUDP, 20))
	for name, ip := range inner {
		t.Run(name, func(t *testing.T) { translateBothWays(t, ip) })
		t.Run("error about "+name, func(t *testing.T) {
			reply := AppendUnreachable(nil, ip, PortUnreachable, b4) // from b4 to a4, quoting a4 to b4
			if name == "icmp" && reply == nil {
				t.Fatal("an echo request draws no error")
			}
			translateBothWays(t, reply)
			for _, cut := range []int{28, 24, 20} { // only the quoted header and little more
				short := bytes.Clone(reply[:28+cut])
				binary.BigEndian.PutUint16(short[2:], uint16(len(short)))
				clear(short[10:12])
				binary.BigEndian.PutUint16(short[10:], Checksum(short[:20]))
				fixChecksum(short, protoICMP, 20)
				translateBothWays(t, short)
			}
		})
	}
}

func translateBothWays(t *testing.T, ip []byte) {
	t.Helper()
	i, err := Parse(ip)
	if err != nil {
		t.Fatal(err)
	}
	moved := bytes.Clone(ip)
	if err := TranslateV4(moved, w1, w2); err != nil {
		t.Fatal(err)
	}
	got, err := Parse(moved)
	if err != nil || got.Src != w1 || got.Dst != w2 {
		t.Fatalf("after translation: %+v, %v", got, err)
	}
	if err := valid(moved); err != nil {
		t.Errorf("after translation: %v", err)
	}
	if q, err := Quoted(moved, got); err == nil {
		if q.Src != w2 || q.Dst != w1 {
			t.Errorf("the quoted packet is from %v to %v", q.Src, q.Dst)
		}
		if c := Checksum(moved[28 : 28+20]); c != 0 {
			t.Errorf("quoted header checksum is off by %#x", c)
		}
	}
	if err := TranslateV4(moved, i.Src, i.Dst); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(moved, ip) {
		t.Errorf("there and back:\n%x\nwant\n%x", moved, ip)
	}
}

// A later fragment has no L4 header: only its IP header changes.
func TestTranslateFragment(t *testing.T) {
	ip := build(protoUDP, a4, b4, udp(1, 2, "12345678"))
	binary.BigEndian.PutUint16(ip[6:], 100)
	clear(ip[10:12])
	binary.BigEndian.PutUint16(ip[10:], Checksum(ip[:20]))
	data := bytes.Clone(ip[20:])
	if err := TranslateV4(ip, w1, w2); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(ip[20:], data) {
		t.Error("the data of a fragment was changed")
	}
	if c := Checksum(ip[:20]); c != 0 {
		t.Errorf("header checksum is off by %#x", c)
	}
}

// A UDP checksum that comes out as zero is sent as ffff (RFC 768).
func TestTranslateZeroSum(t *testing.T) {
	ip := build(protoUDP, a4, b4, udp(1, 2, "\x00\x00"))
	want := bytes.Clone(ip)
	if err := TranslateV4(want, w1, w2); err != nil {
		t.Fatal(err)
	}
	// Choose the payload so that the translated sum is zero.
	copy(ip[28:30], checksumField(want, protoUDP, 20))
	fixChecksum(ip, protoUDP, 20)
	if err := TranslateV4(ip, w1, w2); err != nil {
		t.Fatal(err)
	}
	if got := binary.BigEndian.Uint16(checksumField(ip, protoUDP, 20)); got != 0xffff {
		t.Errorf("checksum = %#x, want 0xffff", got)
	}
}

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

// fragments4 cuts a packet into IPv4 fragments of size bytes of data.
func fragments4(ip []byte, size int) [][]byte {
	var all [][]byte
	data := ip[20:]
	for offset := 0; offset < len(data); offset += size {
		end := min(offset+size, len(data))
		f := append(bytes.Clone(ip[:20]), data[offset:end]...)
		binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
		field := uint16(offset / 8)
		if end < len(data) {
			field |= 0x2000
		}
		binary.BigEndian.PutUint16(f[6:], field)
		all = append(all, f)
	}
	return all
}

// fragments6 does the same for IPv6.
func fragments6(ip []byte, size int) [][]byte {
	var all [][]byte
	data := ip[40:]
	for offset := 0; offset < len(data); offset += size {
		end := min(offset+size, len(data))
		f := append(bytes.Clone(ip[:40]), ip[6], 0, 0, 0, 0, 0, 0, 42)
		more := uint16(0)
		if end < len(data) {
			more = 1
		}
		binary.BigEndian.PutUint16(f[42:], uint16(offset)|more)
		f[6] = protoFragment
		f = append(f, data[offset:end]...)
		binary.BigEndian.PutUint16(f[4:], uint16(len(f)-40))
		all = append(all, f)
	}
	return all
}

func add(t *testing.T, r *Reassembler, now time.Time, ip []byte) ([]byte, error) {
	t.Helper()
	i, err := Parse(ip)
	if err != nil {
		t.Fatal(err)
	}
	return r.Add(now, ip, i)
}

func TestReassemble(t *testing.T) {
	payload := string(bytes.Repeat([]byte("0123456789"), 800))
	now := time.Unix(1, 0)
	for _, tc := range []struct {
		name      string
		whole     []byte
		fragments [][]byte
	}{
		{"IPv4", build(protoUDP, a4, b4, udp(1, 2, payload)), fragments4(build(protoUDP, a4, b4, udp(1, 2, payload)), 1400)},
		{"IPv6", build(protoUDP, a6, b6, udp(1, 2, payload)), fragments6(build(protoUDP, a6, b6, udp(1, 2, payload)), 1232)},
	} {
		for _, order := range []string{"in order", "backwards"} {
			t.Run(tc.name+" "+order, func(t *testing.T) {
				var r Reassembler
				var got []byte
				for n := range tc.fragments {
					at := n
					if order == "backwards" {
						at = len(tc.fragments) - 1 - n
					}
					whole, err := add(t, &r, now, tc.fragments[at])
					if err != nil {
						t.Fatal(err)
					}
					if (whole != nil) != (n == len(tc.fragments)-1) {
						t.Fatalf("fragment %d: whole = %v", n, whole != nil)
					}
					got = whole
				}
				if err := valid(got); err != nil {
					t.Error(err)
				}
				if i, _ := Parse(got); !bytes.Equal(got[i.L4:], tc.whole[i.L4:]) {
					t.Error("the data differs")
				}
				if r.bytes != 0 || len(r.pending) != 0 {
					t.Errorf("%d bytes, %d packets are left", r.bytes, len(r.pending))
				}
			})
		}
	}
}

// S14: overlaps drop the whole packet; number, bytes and time are bounded.
func TestReassembleAttacks(t *testing.T) {
	now := time.Unix(1, 0)
	whole := build(protoUDP, a4, b4, udp(1, 2, string(make([]byte, 4000))))
	pieces := fragments4(whole, 1000)
	t.Run("overlap", func(t *testing.T) {
		var r Reassembler
		add(t, &r, now, pieces[0])
		evil := bytes.Clone(pieces[1])
		binary.BigEndian.PutUint16(evil[6:], 0x2000|120) // 960, before the end of the first
		if _, err := add(t, &r, now, evil); !errors.Is(err, ErrFragment) {
			t.Errorf("%v, want %v", err, ErrFragment)
		}
		if len(r.pending) != 0 || r.bytes != 0 {
			t.Error("the packet is still there")
		}
	})
	t.Run("too late", func(t *testing.T) {
		var r Reassembler
		add(t, &r, now, pieces[0])
		for _, p := range pieces[1:] {
			if got, _ := add(t, &r, now.Add(6*time.Second), p); got != nil {
				t.Error("a packet from the past came together")
			}
		}
	})
	t.Run("many", func(t *testing.T) {
		var r Reassembler
		for id := range 10_000 {
			f := bytes.Clone(pieces[0])
			binary.BigEndian.PutUint16(f[4:], uint16(id))
			add(t, &r, now, f)
		}
		if len(r.pending) > maxPending || r.bytes > maxPendingBytes {
			t.Errorf("%d packets, %d bytes", len(r.pending), r.bytes)
		}
	})
	t.Run("beyond 65535", func(t *testing.T) {
		var r Reassembler
		f := bytes.Clone(pieces[0])
		binary.BigEndian.PutUint16(f[6:], 0x2000|8191)
		if _, err := add(t, &r, now, f); !errors.Is(err, ErrFragment) {
			t.Errorf("%v, want %v", err, ErrFragment)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add(build(protoUDP, a4, b4, udp(1, 2, "x")))
	f.Add(build(protoTCP, a6, b6, tcp(1, 2, 2, 0, 0, "")))
	f.Add(AppendUnreachable(nil, build(protoUDP, a4, b4, udp(1, 2, "x")), NoRoute, b4))
	f.Add(fragments6(build(protoUDP, a6, b6, udp(1, 2, string(make([]byte, 100)))), 64)[1])
	f.Fuzz(func(t *testing.T, ip []byte) {
		i, err := Parse(ip)
		if err != nil {
			return
		}
		_, _ = Quoted(ip, i)
		_ = AppendRST(nil, ip)
		_ = AppendUnreachable(nil, ip, Prohibited, i.Dst)
		if i.Fragment {
			var r Reassembler
			_, _ = r.Add(time.Unix(1, 0), ip, i)
		}
		if i.Version != 4 {
			return
		}
		wasValid := valid(ip) == nil
		moved := bytes.Clone(ip)
		if err := TranslateV4(moved, w1, w2); err != nil {
			t.Fatal(err)
		}
		if wasValid && !i.Fragment && valid(moved) != nil {
			t.Errorf("a valid packet became invalid: %v", valid(moved))
		}
	})
}

func TestNoAllocations(t *testing.T) {
	ip := build(protoUDP, a4, b4, udp(1, 2, "x"))
	if n := testing.AllocsPerRun(100, func() { _, _ = Parse(ip) }); n != 0 {
		t.Errorf("Parse: %v allocations", n)
	}
	if n := testing.AllocsPerRun(100, func() { _ = TranslateV4(ip, w1, w2) }); n != 0 {
		t.Errorf("TranslateV4: %v allocations", n)
	}
}

func BenchmarkParse(b *testing.B) {
	ip := build(protoUDP, a6, b6, udp(1, 2, "x"))
	b.ReportAllocs()
	for b.Loop() {
		_, _ = Parse(ip)
	}
}

func BenchmarkTranslateV4(b *testing.B) {
	ip := build(protoUDP, a4, b4, udp(1, 2, string(make([]byte, 1300))))
	b.ReportAllocs()
	for b.Loop() {
		_ = TranslateV4(ip, w1, w2)
	}
}
