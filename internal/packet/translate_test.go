package packet

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

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

// rebuilt is a whole valid packet with other addresses, every checksum computed
// anew.
func rebuilt(t testing.TB, ip []byte, src, dst netip.Addr) []byte {
	t.Helper()
	i, err := Parse(ip)
	if err != nil {
		t.Fatal(err)
	}
	out := bytes.Clone(ip)
	copy(out[12:], src.AsSlice())
	copy(out[16:], dst.AsSlice())
	fixHeader(out)
	if field := checksumField(out, i.Proto, i.L4); i.Proto != protoUDP || binary.BigEndian.Uint16(field) != 0 {
		fixChecksum(out, i.Proto, i.L4)
	}
	return out
}

// fixHeader computes the checksum of an IPv4 header.
func fixHeader(ip []byte) {
	clear(ip[10:12])
	binary.BigEndian.PutUint16(ip[10:], reference(ip[:int(ip[0]&0xf)*4]))
}

// withOptions puts so many bytes of no operation into the header of a packet.
func withOptions(ip []byte, size int) []byte {
	out := append(bytes.Clone(ip[:ipv4Len]), bytes.Repeat([]byte{1}, size)...)
	out = append(out, ip[ipv4Len:]...)
	out[0] = 0x40 | uint8(ipv4Len+size)/4
	binary.BigEndian.PutUint16(out[2:], uint16(len(out)))
	fixHeader(out)
	return out
}

// pairs are old and new addresses of a packet, source and destination.
var pairs = [][4]netip.Addr{
	{a4, b4, w1, w2},
	{w1, w2, a4, b4},
	{a4, b4, a4, w2}, // a routed source stays
	{a4, b4, netip.MustParseAddr("255.255.255.255"), netip.MustParseAddr("0.0.0.0")},
	{netip.MustParseAddr("255.255.255.255"), netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("255.255.255.255")},
	{a4, b4, b4, a4},
}

// S17: translation is the same, byte for byte, as another packet with every
// checksum computed anew, for all protocols, lengths, options and addresses.
func TestTranslateAgainstRebuilt(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for _, pair := range pairs {
		for length := range 70 {
			payload := make([]byte, length)
			for i := range payload {
				payload[i] = byte(random.Uint32() | -random.Uint32()&1*0xff)
			}
			for _, ip := range kinds(pair[0], pair[1], string(payload)) {
				ip = withOptions(ip, length%11*4)
				checkTranslation(t, ip, rebuilt(t, ip, pair[2], pair[3]), pair)
			}
		}
	}
}

// kinds makes a packet of each protocol that is treated in its own way.
func kinds(src, dst netip.Addr, payload string) [][]byte {
	noSum := build(protoUDP, src, dst, udp(5, 53, payload))
	clear(checksumField(noSum, protoUDP, ipv4Len))
	return [][]byte{
		build(protoUDP, src, dst, udp(5, 53, payload)),
		noSum,
		build(protoTCP, src, dst, tcp(5, 22, 2, 1<<31, 7, payload)),
		build(protoICMP, src, dst, echo(8, 1, payload)),
		build(132, src, dst, []byte(payload)), // SCTP: its checksum does not cover addresses
	}
}

func checkTranslation(t testing.TB, ip, want []byte, pair [4]netip.Addr) {
	t.Helper()
	got := bytes.Clone(ip)
	if err := TranslateV4(got, pair[2], pair[3]); err != nil {
		t.Fatalf("%x: %v", ip, err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("%v:\n%x became\n%x, want\n%x", pair, ip, got, want)
	}
}

// S17: the packet that an ICMP error quotes is translated with the error,
// wherever it is cut: each byte that is there is that of the quoted packet with
// its checksums computed anew, and the error's own checksum is right.
func TestTranslateQuotedAgainstRebuilt(t *testing.T) {
	for _, pair := range pairs {
		src, dst, newSrc, newDst := pair[0], pair[1], pair[2], pair[3]
		for _, inner := range kinds(dst, src, "quoted payload") { // the error answers it
			for options := 0; options <= 40; options += 20 {
				inner := withOptions(inner, options)
				moved := rebuilt(t, inner, newDst, newSrc)
				for cut := range len(inner) + 1 {
					want := bytes.Clone(moved)
					if at := checksumAt(inner[9]); at > 0 && cut == ipv4Len+options+at+1 {
						want[cut-1] = inner[cut-1] // half a checksum: left alone
					}
					if cut < ipv4Len+options {
						want = inner // no whole header is quoted: left alone
					}
					checkTranslation(t, quoting(src, dst, inner[:cut]), quoting(newSrc, newDst, want[:cut]), pair)
				}
			}
		}
	}
}

// What the quoted packet has beyond the two addresses stays: an error about
// another packet says so after translation too.
func TestTranslateQuotedOthers(t *testing.T) {
	other := netip.MustParseAddr("192.0.2.99")
	for name, tc := range map[string]struct{ inner, want []byte }{
		"other destination": {build(protoUDP, b4, other, udp(1, 2, "x")), build(protoUDP, w2, other, udp(1, 2, "x"))},
		"other source":      {build(protoUDP, other, a4, udp(1, 2, "x")), build(protoUDP, other, w1, udp(1, 2, "x"))},
		"both others":       {build(protoUDP, other, other, udp(1, 2, "x")), build(protoUDP, other, other, udp(1, 2, "x"))},
		"not swapped":       {build(protoUDP, a4, b4, udp(1, 2, "x")), build(protoUDP, w1, w2, udp(1, 2, "x"))},
		"IPv6":              {build(protoUDP, a6, b6, udp(1, 2, "x")), build(protoUDP, a6, b6, udp(1, 2, "x"))},
		"header too short":  {append([]byte{0x44}, make([]byte, 30)...), append([]byte{0x44}, make([]byte, 30)...)},
	} {
		t.Run(name, func(t *testing.T) {
			checkTranslation(t, quoting(a4, b4, tc.inner), quoting(w1, w2, tc.want), [4]netip.Addr{a4, b4, w1, w2})
		})
	}
}

// All values of a checksum, 0 and ffff with them (RFC 1624, RFC 768).
func TestTranslateAllSums(t *testing.T) {
	for _, proto := range []uint8{protoUDP, protoTCP} {
		ip := build(proto, a4, b4, udp(1, 2, "\x00\x00 and twelve more"))
		for word := range 1 << 16 {
			binary.BigEndian.PutUint16(ip[30:], uint16(word))
			fixChecksum(ip, proto, ipv4Len)
			checkTranslation(t, ip, rebuilt(t, ip, w1, w2), [4]netip.Addr{a4, b4, w1, w2})
		}
	}
}

// Fragments are translated one by one, and come together right.
func TestTranslateFragments(t *testing.T) {
	for _, ip := range kinds(a4, b4, string(bytes.Repeat([]byte("fragment"), 100))) {
		var (
			r   Reassembler
			got []byte
		)
		for _, f := range fragments4(ip, 240) {
			fixHeader(f)
			if err := TranslateV4(f, w1, w2); err != nil {
				t.Fatal(err)
			}
			if c := reference(f[:ipv4Len]); c != 0 {
				t.Errorf("header checksum is off by %#x", c)
			}
			whole, err := add(t, &r, time.Unix(1, 0), f)
			if err != nil {
				t.Fatal(err)
			}
			got = whole
		}
		want := rebuilt(t, ip, w1, w2)
		clear(want[6:8]) // as the Reassembler has it
		fixHeader(want)
		if !bytes.Equal(got, want) {
			t.Errorf("protocol %d:\n%x, want\n%x", ip[9], got, want)
		}
	}
}

// Damage from before stays damage: sums are adjusted, not made right.
func TestTranslateKeepsDamage(t *testing.T) {
	for _, ip := range kinds(a4, b4, "payload")[:1] {
		for at := range ip {
			if at < ipv4Len && at != 8 { // the TTL, of what Parse does not look at
				continue
			}
			bad := bytes.Clone(ip)
			bad[at] ^= 0x10
			if binary.BigEndian.Uint16(checksumField(bad, protoUDP, ipv4Len)) == 0 {
				continue
			}
			if err := TranslateV4(bad, w1, w2); err != nil {
				t.Fatal(err)
			}
			if valid(bad) == nil {
				t.Errorf("damage at byte %d is gone", at)
			}
		}
	}
}

// An error means that nothing was changed.
func TestTranslateRefused(t *testing.T) {
	ip := build(protoUDP, a4, b4, udp(1, 2, "x"))
	for name, tc := range map[string]struct {
		ip       []byte
		src, dst netip.Addr
	}{
		"IPv6 packet":     {build(protoUDP, a6, b6, udp(1, 2, "x")), w1, w2},
		"IPv6 source":     {ip, a6, w2},
		"mapped source":   {ip, netip.MustParseAddr("::ffff:1.2.3.4"), w2},
		"no destination":  {ip, w1, netip.Addr{}},
		"cut":             {ip[:25], w1, w2},
		"nothing":         {nil, w1, w2},
		"header of 4":     {append([]byte{0x41}, ip[1:]...), w1, w2},
		"header too long": {append([]byte{0x4f}, ip[1:]...), w1, w2},
	} {
		before := bytes.Clone(tc.ip)
		if err := TranslateV4(tc.ip, tc.src, tc.dst); err == nil {
			t.Errorf("%s: translated", name)
		}
		if !bytes.Equal(tc.ip, before) {
			t.Errorf("%s: changed", name)
		}
	}
}
