package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/packet"
)

// S17: an address of one view says nothing in the other, so it neither leaves
// nor arrives; a routed one does both.
func TestAddressOfOtherView(t *testing.T) {
	routed := netip.MustParseAddr("10.9.8.7")
	for _, tc := range []struct {
		name     string
		src, dst netip.Addr
		want     error
	}{
		{"the wire's sender", wireSender, alice.Remote4, ErrAddress},
		{"the wire's receiver", alice.Local4, wireReceiver, ErrAddress},
		{"routed source", routed, alice.Remote4, nil},
		{"routed destination", alice.Local4, routed, nil},
	} {
		b, err := AppendPacket([]byte("x"), packet4(tc.src, tc.dst, 8), &alice)
		if !errors.Is(err, tc.want) || err != nil && string(b) != "x" {
			t.Errorf("%s, sent: %x, %v", tc.name, b, err)
		}
		if err == nil && b[1] != KindWhole {
			t.Errorf("%s: kind %#x", tc.name, b[1])
		}
	}
	for _, tc := range []struct {
		name     string
		src, dst netip.Addr
		want     error
		got      [2]netip.Addr
	}{
		{"both ends", wireSender, wireReceiver, nil, [2]netip.Addr{bob.Remote4, bob.Local4}},
		{"the other way round", wireReceiver, wireSender, nil, [2]netip.Addr{bob.Local4, bob.Remote4}}, // for S13 to refuse
		{"our own address", wireSender, bob.Local4, ErrAddress, [2]netip.Addr{}},
		{"our address of the sender", bob.Remote4, wireReceiver, ErrAddress, [2]netip.Addr{}},
		{"routed", routed, wireReceiver, nil, [2]netip.Addr{routed, bob.Local4}},
	} {
		b := append([]byte{KindWhole}, packet4(tc.src, tc.dst, 8)...)
		got, err := DecodePacket([]byte("x"), b, &bob)
		switch {
		case !errors.Is(err, tc.want):
			t.Errorf("%s, received: %v", tc.name, err)
		case err != nil && string(got) != "x":
			t.Errorf("%s, received: %x left behind", tc.name, got)
		case err == nil && !bytes.Equal(got[1:], packet4(tc.got[0], tc.got[1], 8)):
			t.Errorf("%s, received: %x", tc.name, got[1:])
		}
	}
}

func TestPacketRefused(t *testing.T) {
	ip6, ip4 := packet6(t), packet4(alice.Local4, alice.Remote4, 8)
	damaged := bytes.Clone(ip4)
	damaged[8]++
	if b, err := AppendPacket(nil, damaged, &alice); !errors.Is(err, ErrDatagram) {
		t.Errorf("wrong header checksum: %x, %v", b, err)
	}
	optional := bytes.Clone(ip4)
	optional[0] = 0x4f // says it has options, which are not there
	for name, bad := range map[string][]byte{
		"nothing": nil, "IPv5": {0x50}, "IPv6 cut": ip6[:39], "IPv6 shorter than it says": ip6[:len(ip6)-1],
		"IPv6 longer than it says": append(bytes.Clone(ip6), 0), "IPv4 cut": ip4[:19],
		"IPv4 shorter than it says": ip4[:len(ip4)-1], "IPv4 longer than it says": append(bytes.Clone(ip4), 0),
		"IPv4 options missing": optional,
	} {
		if b, err := AppendPacket([]byte("x"), bad, &alice); err == nil || string(b) != "x" {
			t.Errorf("%s, sent: %x, %v", name, b, err)
		}
		if b, err := DecodePacket([]byte("x"), append([]byte{KindWhole}, bad...), &bob); err == nil || string(b) != "x" {
			t.Errorf("%s, received: %x, %v", name, b, err)
		}
	}
	for name, bad := range map[string][]byte{
		"nothing": nil, "kind 3": {3, 0, 0, 0}, "IPv6 cut": {KindIPv6, 0, 64}, "IPv4 cut": {KindIPv4, 0, 64, 17, 0, 0, 0},
		"IPv6 too long": append([]byte{KindIPv6, 0, 64, 17}, make([]byte, 1<<16)...),
		"IPv4 too long": append([]byte{KindIPv4, 0, 64, 17, 0, 0, 0, 0}, make([]byte, 1<<16-20)...),
	} {
		if b, err := DecodePacket([]byte("x"), bad, &bob); err == nil || string(b) != "x" {
			t.Errorf("%s: %x, %v", name, b, err)
		}
	}
}

// S17: a later fragment has no L4 checksum, and a UDP checksum of 0 means none.
func TestPacket4Fragments(t *testing.T) {
	for name, change := range map[string]func(ip []byte){
		"later fragment": func(ip []byte) { binary.BigEndian.PutUint16(ip[6:], 185) },
		"first fragment": func(ip []byte) { binary.BigEndian.PutUint16(ip[6:], 0x2000) },
		"no checksum":    func(ip []byte) { clear(ip[26:28]) },
	} {
		make4 := func(src, dst netip.Addr) []byte {
			ip := packet4(src, dst, 64)
			if name == "later fragment" {
				binary.BigEndian.PutUint16(ip[26:], 0xabcd) // just bytes
			}
			change(ip)
			clear(ip[10:12])
			binary.BigEndian.PutUint16(ip[10:], packet.Checksum(ip[:20]))
			return ip
		}
		b, err := AppendPacket(nil, make4(alice.Local4, alice.Remote4), &alice)
		if err != nil || b[0] != KindIPv4 {
			t.Fatalf("%s: %x, %v", name, b, err)
		}
		got, err := DecodePacket(nil, b, &bob)
		if want := make4(bob.Remote4, bob.Local4); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %x, %v\nwant %x", name, got, err, want)
		}
	}
}

// mirror is how the other side sees the two ends, if both number them alike.
func (e *Ends) mirror() *Ends {
	return &Ends{Local6: e.Remote6, Remote6: e.Local6, Local4: e.Remote4, Remote4: e.Local4}
}

func FuzzDatagrams(f *testing.F) {
	for _, ip := range [][]byte{packet6(f), packet4(alice.Local4, alice.Remote4, 20), packet4(netip.MustParseAddr("10.0.0.1"), alice.Remote4, 20)} {
		b, err := AppendPacket(nil, ip, &alice)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	reply := packet.AppendUnreachable(nil, packet4(bob.Remote4, bob.Local4, 32), packet.PortUnreachable, bob.Local4)
	b, err := AppendPacket(nil, reply, &bob)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{KindWhole, 0x60})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, _, _ = ParsePing(b)
		ip, err := DecodePacket(nil, b, &bob)
		if err != nil {
			return
		}
		// The packet is the receiver's; whoever sends it from the other side,
		// numbering alike, brings about the same packet again.
		there, err := AppendPacket(nil, ip, bob.mirror())
		if err != nil && ip[0] == 0x45 && packet.Checksum(ip[:20]) != 0 {
			return
		}
		if err != nil {
			t.Fatalf("%x: %v", ip, err)
		}
		back, err := DecodePacket(nil, there, &bob)
		if err != nil || !bytes.Equal(back, ip) {
			t.Errorf("%x became %x, %v", ip, back, err)
		}
	})
}

// FuzzJoiner plays datagrams of a hostile peer: each 16 bytes are a half.
func FuzzJoiner(f *testing.F) {
	f.Add([]byte("\x08\x00\x01\x00\x14\x00bcdefghij" + "\x09\x00\x01\x00\x14abcdefghi"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var j Joiner
		now := time.Unix(1, 0)
		for len(b) > 0 {
			n := min(16, len(b))
			whole, err := j.Add(now, b[:n])
			if err == nil && whole != nil && whole[0] > KindWhole {
				t.Errorf("kind %#x", whole[0])
			}
			sum := 0
			for _, h := range j.pending {
				sum += len(h.part)
			}
			if len(j.pending) > maxPending || sum != j.bytes || sum > maxPendingBytes {
				t.Fatalf("%d pending, %d bytes counted as %d", len(j.pending), sum, j.bytes)
			}
			now = now.Add(time.Duration(b[0]) * time.Millisecond)
			b = b[n:]
		}
	})
}

// Whatever is split comes together again.
func FuzzSplit(f *testing.F) {
	f.Add([]byte("\x00packet"), uint16(7))
	f.Fuzz(func(t *testing.T, b []byte, id uint16) {
		first, second, err := Split(b, id, len(b)/2+6)
		if err != nil {
			if len(b) >= 2 && len(b) <= 0xffff && b[0] <= KindWhole {
				t.Fatal(err)
			}
			return
		}
		var j Joiner
		if whole, err := j.Add(time.Time{}, second); whole != nil || err != nil {
			t.Fatalf("%x, %v", whole, err)
		}
		if whole, err := j.Add(time.Time{}, first); err != nil || !bytes.Equal(whole, b) {
			t.Errorf("%x, %v", whole, err)
		}
	})
}

// hotPaths are what each packet takes, with a buffer at hand.
func hotPaths(t testing.TB) map[string]func() {
	buf, out := make([]byte, 0, 2048), make([]byte, 0, 2048)
	paths := make(map[string]func())
	ip6 := packet6(t)
	ip6 = append(ip6, make([]byte, 1300)...)
	binary.BigEndian.PutUint16(ip6[4:], uint16(len(ip6)-40))
	for name, ip := range map[string][]byte{
		"6": ip6, "4": packet4(alice.Local4, alice.Remote4, 1300), "Whole4": packet4(netip.MustParseAddr("10.0.0.1"), alice.Remote4, 1300),
	} {
		frame, err := AppendPacket(nil, ip, &alice)
		if err != nil {
			t.Fatal(err)
		}
		paths["AppendPacket"+name] = func() { buf, _ = AppendPacket(buf[:0], ip, &alice) }
		paths["DecodePacket"+name] = func() { out, _ = DecodePacket(out[:0], frame, &bob) }
	}
	var j Joiner
	id, now := uint16(0), time.Unix(1, 0)
	whole := append([]byte{KindIPv6}, make([]byte, 1400)...)
	paths["SplitAndJoin"] = func() {
		id++
		first, second, _ := appendSplit(buf[:0], whole, id, 1163)
		_, _ = j.Add(now, first)
		if got, _ := j.Add(now, second); len(got) != len(whole) {
			t.Fatal("not joined")
		}
	}
	paths["Ping"] = func() {
		buf = AppendPing(buf[:0], KindPing, 1, 2)
		_, _, _, _ = ParsePing(buf)
	}
	paths["refused"] = func() { out, _ = DecodePacket(out[:0], whole[:3], &bob) }
	return paths
}

func TestNoAllocations(t *testing.T) {
	for name, f := range hotPaths(t) {
		f()
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkHotPaths(b *testing.B) {
	for name, f := range hotPaths(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
	}
}
