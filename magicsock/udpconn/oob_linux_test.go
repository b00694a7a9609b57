package udpconn

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func TestControlMessages(t *testing.T) {
	v4 := appendSegment(AppendTOS(nil, 2, false), 1452)
	v6 := AppendTOS(appendSegment(nil, 1200), 1, true)
	other, _ := appendHeader(nil, unix.IPPROTO_IP, unix.IP_PKTINFO, 12)
	for _, tc := range []struct {
		name string
		oob  []byte
		seg  int
		tos  uint8
	}{
		{"empty", nil, 0, 0},
		{"ipv4 ecn and segment", v4, 1452, 2},
		{"ipv6 segment and ecn", v6, 1200, 1},
		{"packet info before", append(other, v4...), 1452, 2},
		{"cut", v4[:unix.CmsgLen(0)], 0, 0},
		{"garbage", []byte{1, 2, 3}, 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := ParseControl(tc.oob); got.Seg != tc.seg || got.TOS != tc.tos {
				t.Errorf("got %+v, want %d, %d", got, tc.seg, tc.tos)
			}
		})
	}
}

// The source that is asked for is the one in the message; all messages of a send fit.
func TestSourceMessage(t *testing.T) {
	for _, addr := range []string{"192.0.2.7", "2001:db8::7"} {
		from := netip.MustParseAddr(addr)
		oob := appendSource(AppendTOS(appendSegment(nil, 1452), 2, from.Is6()), from)
		if len(oob) > sendOOBSize {
			t.Errorf("%s: %d bytes", addr, len(oob))
		}
		got := ParseControl(oob)
		if from.Is4() { // the kernel hands up where it was sent to behind that
			got.Local.Addr = netip.AddrFrom4([4]byte(oob[len(oob)-unix.CmsgSpace(12)+unix.CmsgLen(0)+4:]))
		}
		if got.Seg != 1452 || got.TOS != 2 || got.Local.Addr != from || got.Local.Link != 0 {
			t.Errorf("%s: got %+v", addr, got)
		}
	}
}

func FuzzParseControl(f *testing.F) {
	f.Add(appendSegment(AppendTOS(nil, 2, false), 1452))
	f.Add(AppendTOS(nil, 3, true))
	f.Fuzz(func(t *testing.T, oob []byte) {
		if seg := ParseControl(oob).Seg; seg < 0 {
			t.Errorf("negative segment size %d", seg)
		}
	})
}
