//go:build !race

package packet

import (
	"testing"
	"time"
)

// The race detector makes allocations of its own, so this is not built with it.
func TestNoAllocations(t *testing.T) {
	four, six := build(protoUDP, a4, b4, udp(1, 2, "x")), build(protoTCP, a6, b6, tcp(1, 2, 2, 0, 0, "x"))
	quoted := quoting(b4, a4, four)
	extended := with6(protoHopByHop, []byte{protoUDP, 0, 1, 4, 0, 0, 0, 0})
	info, err := Parse(quoted)
	if err != nil {
		t.Fatal(err)
	}
	sixInfo, err := Parse(six)
	if err != nil {
		t.Fatal(err)
	}
	var r Reassembler
	buf, now := make([]byte, 0, 2048), time.Unix(1, 0)
	for name, run := range map[string]func(){
		"Parse, IPv4":             func() { _, _ = Parse(four) },
		"Parse, IPv6":             func() { _, _ = Parse(six) },
		"Parse, options":          func() { _, _ = Parse(extended) },
		"Parse, garbage":          func() { _, _ = Parse(four[:25]) },
		"TranslateV4":             func() { _ = TranslateV4(four, w1, w2) },
		"TranslateV4, ICMP error": func() { _ = TranslateV4(quoted, w1, w2) },
		"Quoted":                  func() { _, _ = Quoted(quoted, info) },
		"judging":                 func() { _ = Forbidden(info) || IsICMPError(info) || BadAddr(info.Src) || BadAddr(sixInfo.Src) },
		"AppendUnreachable":       func() { buf = AppendUnreachable(buf[:0], six, Prohibited, b6) },
		"AppendTooBig":            func() { buf = AppendTooBig(buf[:0], six, 1280, b6) },
		"AppendRST":               func() { buf = AppendRST(buf[:0], six) },
		"Add of no fragment":      func() { _, _ = r.Add(now, six, sixInfo) },
	} {
		if n := testing.AllocsPerRun(100, run); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
