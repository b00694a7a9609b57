package packet

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"testing"
)

// reference is RFC 1071 word for word, to hold the fast code against.
func reference(b []byte) uint16 {
	var s uint32
	for n := 0; n < len(b); n += 2 {
		word := uint32(b[n]) << 8
		if n+1 < len(b) {
			word |= uint32(b[n+1])
		}
		s += word
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}

// referenceL4 writes the pseudo-header down (RFC 9293 3.1, RFC 8200 8.1).
func referenceL4(ip []byte, proto uint8, at int) uint16 {
	var b []byte
	switch {
	case ip[0]>>4 == 4 && proto == protoICMP:
	case ip[0]>>4 == 4:
		b = append(b, ip[12:20]...)
		b = append(b, 0, proto)
		b = binary.BigEndian.AppendUint16(b, uint16(len(ip)-at))
	default:
		b = append(b, ip[8:40]...)
		b = binary.BigEndian.AppendUint32(b, uint32(len(ip)-at))
		b = append(b, 0, 0, 0, proto)
	}
	return reference(append(b, ip[at:]...))
}

func TestChecksumVectors(t *testing.T) {
	for _, tc := range []struct {
		name, bytes string
		want        uint16
	}{
		{"RFC 1071 3", "0001f203f4f5f6f7", ^uint16(0xddf2)},
		{"IPv4 header", "45000073000040004011b861c0a80001c0a800c7", 0},
		{"IPv4 header without its checksum", "450000730000400040110000c0a80001c0a800c7", 0xb861},
		{"nothing", "", 0xffff},
		{"one byte", "01", ^uint16(0x0100)},
		{"carry over carry", "ffffffffffffffff0001", ^uint16(0x0001)},
	} {
		b, err := hex.DecodeString(tc.bytes)
		if err != nil {
			t.Fatal(err)
		}
		if got := Checksum(b); got != tc.want || reference(b) != tc.want {
			t.Errorf("%s: %#x, reference %#x, want %#x", tc.name, got, reference(b), tc.want)
		}
	}
}

// The example of RFC 1624 4, where equation 2 goes wrong.
func TestAdjustVector(t *testing.T) {
	if got := adjust(0xdd2f, []byte{0x55, 0x55}, []byte{0x32, 0x85}); got != 0 {
		t.Errorf("%#x, want 0", got)
	}
}

func TestChecksumAgainstReference(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for n := range 2000 {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(random.Uint32() | -random.Uint32()&1*0xff) // with many ff
		}
		if got, want := Checksum(b), reference(b); got != want {
			t.Fatalf("%x: %#x, want %#x", b, got, want)
		}
	}
}

func TestL4ChecksumAgainstReference(t *testing.T) {
	payload := string(make([]byte, 33))
	for _, ip := range [][]byte{
		build(protoUDP, a4, b4, udp(1, 2, payload)), build(protoUDP, a6, b6, udp(1, 2, payload)),
		build(protoTCP, a4, b4, tcp(1, 2, 3, 4, 5, payload)), build(protoTCP, a6, b6, tcp(1, 2, 3, 4, 5, payload)),
		build(protoICMP, a4, b4, echo(8, 1, payload)), build(protoICMPv6, a6, b6, echo(128, 1, payload)),
	} {
		i, err := Parse(ip)
		if err != nil {
			t.Fatal(err)
		}
		if c := L4Checksum(ip, i.Proto, i.L4); c != 0 {
			t.Errorf("%+v: off by %#x", i, c)
		}
	}
}
