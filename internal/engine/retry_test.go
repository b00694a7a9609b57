package engine

import (
	"bytes"
	"net/netip"
	"testing"

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
	r := &retries{engine: &Engine{cfg: Config{Link: link}}}
	a, b := netip.MustParseAddrPort("[fd00::1]:40000"), netip.MustParseAddrPort("[fd00::2]:22")
	other := netip.MustParseAddrPort("[fd00::2]:80")
	note := func(dst netip.AddrPort, payload string) []byte {
		ip := segment(a, dst, payload)
		info, err := packet.Parse(ip)
		if err != nil {
			t.Fatal(err)
		}
		r.note(ip, &info)
		return ip
	}
	note(b, "before")
	r.goOn(tcpEnds{a, b})
	r.watch(tcpEnds{a, b})
	r.goOn(tcpEnds{a, b}) // nothing was sent meanwhile
	if len(link.packets) != 0 {
		t.Fatalf("%d errors although no flow stood still", len(link.packets))
	}
	r.watch(tcpEnds{a, b})
	note(b, "first")
	last := note(b, "last")
	note(other, "another flow")
	note(b, string(make([]byte, maxQuoted)))
	note(b, "") // an answer to what the peer sent meanwhile
	r.goOn(tcpEnds{a, b})
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
	r.watch(tcpEnds{a, b})
	r.forget(tcpEnds{a, b})
	if r.count.Load() != 0 || len(r.last) != 0 {
		t.Errorf("%d flows are kept, %d counted", len(r.last), r.count.Load())
	}
}
