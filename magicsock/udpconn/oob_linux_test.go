package udpconn

import (
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
			if seg, tos := ParseControl(tc.oob); seg != tc.seg || tos != tc.tos {
				t.Errorf("got %d, %d, want %d, %d", seg, tos, tc.seg, tc.tos)
			}
		})
	}
}

func FuzzParseControl(f *testing.F) {
	f.Add(appendSegment(AppendTOS(nil, 2, false), 1452))
	f.Add(AppendTOS(nil, 3, true))
	f.Fuzz(func(t *testing.T, oob []byte) {
		if seg, _ := ParseControl(oob); seg < 0 {
			t.Errorf("negative segment size %d", seg)
		}
	})
}
