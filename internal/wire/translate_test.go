package wire

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/nodetun/nodetun/internal/packet"
)

// packet4 makes an IPv4 UDP packet with right checksums.
func packet4(src, dst netip.Addr, size int) []byte {
	ip := []byte{0x45, 0xb8, 0, 0, 0x12, 0x34, 0x40, 0, 64, 17, 0, 0}
	ip = append(ip, src.AsSlice()...)
	ip = append(ip, dst.AsSlice()...)
	ip = append(ip, 0, 5, 0, 53, 0, 0, 0, 0)
	ip = append(ip, make([]byte, size)...)
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	binary.BigEndian.PutUint16(ip[24:], uint16(len(ip)-20))
	binary.BigEndian.PutUint16(ip[10:], packet.Checksum(ip[:20]))
	binary.BigEndian.PutUint16(ip[26:], packet.L4Checksum(ip, 17, 20))
	return ip
}

func translated(t testing.TB, size int) []byte {
	t.Helper()
	return packet4(alice.Local4, alice.Remote4, size)
}

// S17: each end numbers the two nodes by itself; what arrives is what the
// other would have sent had it known our numbers, checksums included.
func TestPacket4(t *testing.T) {
	for _, size := range []int{0, 1, 2, 1300} {
		ip := translated(t, size)
		before := bytes.Clone(ip)
		b, err := AppendPacket(nil, ip, &alice)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(ip, before) {
			t.Fatal("AppendPacket changed its input")
		}
		if head := []byte{KindIPv4, 0xb8, 64, 17, 0x12, 0x34, 0x40, 0}; !bytes.Equal(b[:8], head) || len(b) != len(ip)-12 {
			t.Errorf("datagram %x, %d bytes for %d", b[:8], len(b), len(ip))
		}
		got, err := DecodePacket(nil, b, &bob)
		if err != nil {
			t.Fatal(err)
		}
		if want := packet4(bob.Remote4, bob.Local4, size); !bytes.Equal(got, want) {
			t.Errorf("size %d: %x\nwant %x", size, got, want)
		}
	}
}

// S17: a packet with options travels whole, its overlay addresses replaced.
func TestPacket4Options(t *testing.T) {
	plain := translated(t, 10)
	ip := append(bytes.Clone(plain[:20]), 1, 1, 1, 0) // no operation, end of list
	ip = append(ip, plain[20:]...)
	ip[0] = 0x46
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	clear(ip[10:12])
	binary.BigEndian.PutUint16(ip[10:], packet.Checksum(ip[:24]))
	b, err := AppendPacket(nil, ip, &alice)
	if err != nil || b[0] != KindWhole {
		t.Fatalf("%x, %v", b[:1], err)
	}
	if src, dst := [4]byte(b[13:]), [4]byte(b[17:]); src != [4]byte{0, 0, 0, 1} || dst != [4]byte{0, 0, 0, 2} {
		t.Errorf("on the wire from %v to %v", src, dst)
	}
	got, err := DecodePacket(nil, b, &bob)
	if err != nil || [4]byte(got[12:]) != bob.Remote4.As4() || [4]byte(got[16:]) != bob.Local4.As4() || packet.Checksum(got[:24]) != 0 {
		t.Errorf("%x, %v", got, err)
	}
}

// S17: an ICMP error quotes a packet of ours in our own numbers.
func TestPacket4Error(t *testing.T) {
	// bob answers a packet of alice's, in bob's view.
	fromAlice := packet4(bob.Remote4, bob.Local4, 32)
	reply := packet.AppendUnreachable(nil, fromAlice, packet.PortUnreachable, bob.Local4)
	b, err := AppendPacket(nil, reply, &bob)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodePacket(nil, b, &alice)
	if err != nil {
		t.Fatal(err)
	}
	want := packet.AppendUnreachable(nil, packet4(alice.Local4, alice.Remote4, 32), packet.PortUnreachable, alice.Remote4)
	if !bytes.Equal(got, want) {
		t.Errorf("%x\nwant %x", got, want)
	}
}

func TestIPv4Off(t *testing.T) {
	off := Ends{Local6: alice.Local6, Remote6: alice.Remote6}
	if _, err := AppendPacket(nil, translated(t, 1), &off); err == nil {
		t.Error("IPv4 is sent")
	}
	b, _ := AppendPacket(nil, translated(t, 1), &alice)
	if _, err := DecodePacket(nil, b, &off); err == nil {
		t.Error("IPv4 is taken")
	}
}
