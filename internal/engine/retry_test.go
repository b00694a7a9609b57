package engine

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/nodetun/nodetun/internal/outage"
	"github.com/nodetun/nodetun/internal/packet"
	"github.com/nodetun/nodetun/internal/vnet"
)

// written is a Link that keeps what is given to the host.
type written struct {
	Link
	packets [][]byte
}

func (w *written) Write(_ vnet.Header, parts ...[]byte) error {
	w.packets = append(w.packets, bytes.Join(parts, nil))
	return nil
}

// segment is a TCP segment without options, as the host sends it.
func segment(src, dst netip.AddrPort, payload string) []byte {
	tcp := make([]byte, 20, 20+len(payload))
	tcp[0], tcp[1] = byte(src.Port()>>8), byte(src.Port())
	tcp[2], tcp[3] = byte(dst.Port()>>8), byte(dst.Port())
	tcp[12], tcp[13] = 5<<4, 0x18
	tcp = append(tcp, payload...)
	ip := []byte{0x60, 0, 0, 0, byte(len(tcp) >> 8), byte(len(tcp)), protoTCP, 64}
	ip = append(ip, src.Addr().AsSlice()...)
	ip = append(ip, dst.Addr().AsSlice()...)
	return append(ip, tcp...)
}

// A flow that goes on after a standstill has the host send its last segment again,
// by errors that quote it (RFC 6069); others draw none.
func TestRetries(t *testing.T) {
	link := &written{}
	e := &Engine{cfg: Config{Link: link}}
	a, b := netip.MustParseAddrPort("[fd00::1]:40000"), netip.MustParseAddrPort("[fd00::2]:22")
	ends, other := outage.Ends{Src: a, Dst: b}, netip.MustParseAddrPort("[fd00::2]:80")
	note := func(dst netip.AddrPort, payload string) []byte {
		ip := segment(a, dst, payload)
		info, err := packet.Parse(ip)
		if err != nil {
			t.Fatal(err)
		}
		e.noteSegment(ip, &info)
		return ip
	}
	note(b, "before")
	e.tryAgain(ends)
	e.standing.Watch(ends)
	e.tryAgain(ends) // nothing was sent meanwhile
	if len(link.packets) != 0 {
		t.Fatalf("%d errors although no flow stood still", len(link.packets))
	}
	e.standing.Watch(ends)
	note(b, "first")
	last := note(b, "last")
	note(other, "another flow")
	note(b, string(make([]byte, 4<<10))) // no TCP sends such a one again
	note(b, "")                          // an answer to what the peer sent meanwhile
	e.tryAgain(ends)
	if len(link.packets) != doublings {
		t.Fatalf("%d errors", len(link.packets))
	}
	for _, ip := range link.packets {
		info, err := packet.Parse(ip)
		if err != nil || info.Src != b.Addr() || info.Dst != a.Addr() || info.Proto != protoICMPv6 || info.ICMPType != 1 {
			t.Fatalf("%+v, %v", info, err)
		}
		if !bytes.HasSuffix(ip, last) {
			t.Errorf("quotes %x", ip)
		}
	}
}
