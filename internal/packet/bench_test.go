package packet

import (
	"testing"
	"time"
)

func BenchmarkParse(b *testing.B) {
	for _, tc := range []struct {
		name string
		ip   []byte
	}{
		{"udp4", build(protoUDP, a4, b4, udp(1, 2, "x"))},
		{"tcp6", build(protoTCP, a6, b6, tcp(1, 2, 2, 0, 0, "x"))},
		{"options6", with6(protoHopByHop, []byte{protoUDP, 0, 1, 4, 0, 0, 0, 0})},
	} {
		b.Run(tc.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = Parse(tc.ip)
			}
		})
	}
}

func BenchmarkTranslateV4(b *testing.B) {
	large := build(protoUDP, a4, b4, udp(1, 2, string(make([]byte, 1300))))
	for _, tc := range []struct {
		name string
		ip   []byte
	}{
		{"udp", large},
		{"ICMP error", quoting(b4, a4, large[:548])},
	} {
		b.Run(tc.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = TranslateV4(tc.ip, w1, w2)
			}
		})
	}
}

func BenchmarkBadAddr(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if BadAddr(a4) || BadAddr(a6) {
			b.Fatal("refused")
		}
	}
}

func BenchmarkChecksum(b *testing.B) {
	data := make([]byte, 1400)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		_ = Checksum(data)
	}
}

func BenchmarkReassemble(b *testing.B) {
	fragments := fragments6(build(protoUDP, a6, b6, udp(1, 2, string(make([]byte, 8000)))), 1232)
	infos := make([]Info, len(fragments))
	for n, f := range fragments {
		infos[n], _ = Parse(f)
	}
	var r Reassembler
	now := time.Unix(1, 0)
	b.SetBytes(8000)
	b.ReportAllocs()
	for b.Loop() {
		for n, f := range fragments {
			_, _ = r.Add(now, f, infos[n])
		}
	}
}
