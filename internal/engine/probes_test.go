package engine

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/outage"
	"github.com/nodetun/nodetun/internal/packet"
	"github.com/nodetun/nodetun/internal/vnet"
)

// tcpSegment is an IPv6 packet with a TCP header and so many bytes behind it.
func tcpSegment(src, dst netip.AddrPort, flags byte, payload int) []byte {
	ip := make([]byte, 60+payload)
	ip[0], ip[6], ip[7] = 0x60, protoTCP, 64
	binary.BigEndian.PutUint16(ip[4:], uint16(20+payload))
	copy(ip[8:], src.Addr().AsSlice())
	copy(ip[24:], dst.Addr().AsSlice())
	binary.BigEndian.PutUint16(ip[40:], src.Port())
	binary.BigEndian.PutUint16(ip[42:], dst.Port())
	ip[52], ip[53] = 5<<4, flags
	return ip
}

// Kept back is what may be a probe that a program asked for: on an open flow that is idle,
// but not for as long as the system waits by itself, towards a peer that gave no sign of life.
func TestWhichSegmentsAreKeptBack(t *testing.T) {
	src, dst := netip.MustParseAddrPort("[fd6e:6f64:6574::1]:40000"), netip.MustParseAddrPort("[fd6e:6f64:6574::2]:22")
	other := netip.AddrPortFrom(src.Addr(), 40001)
	now := time.Unix(1_000_000, 0)
	for _, tc := range []struct {
		name       string
		segment    []byte
		idle, seen time.Duration // for how long nothing went over the flow, or came from the peer
		want       bool
	}{
		{"probe", tcpSegment(src, dst, tcpACK, 0), 5 * time.Second, time.Minute, true},
		{"acknowledgement", tcpSegment(src, dst, tcpACK, 0), 100 * time.Millisecond, time.Minute, false},
		{"the system's own", tcpSegment(src, dst, tcpACK, 0), 2 * time.Hour, time.Minute, false},
		{"the peer lives", tcpSegment(src, dst, tcpACK, 0), 5 * time.Second, 100 * time.Millisecond, false},
		{"data", tcpSegment(src, dst, tcpACK, 1), 5 * time.Second, time.Minute, false},
		{"FIN", tcpSegment(src, dst, tcpACK|tcpFIN, 0), 5 * time.Second, time.Minute, false},
		{"RST", tcpSegment(src, dst, tcpRST, 0), 5 * time.Second, time.Minute, false},
		{"no flow", tcpSegment(other, dst, tcpACK, 0), 5 * time.Second, time.Minute, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := &peer{}
			p.asked.asking = true // nobody is asked
			p.lastSeen.Store(now.Add(-tc.seen).UnixNano())
			f := &flow{}
			f.moved.Store(now.Add(-tc.idle).UnixNano())
			var probes probes
			probes.flows.Store(outage.Ends{Src: src, Dst: dst}, f)
			info, err := packet.Parse(tc.segment)
			if err != nil {
				t.Fatal(err)
			}
			if got := probes.hold(p, vnet.Header{}, tc.segment, &info, now); got != tc.want || (len(p.asked.waiting) == 1) != tc.want {
				t.Errorf("kept back: %v, %d wait", got, len(p.asked.waiting))
			}
		})
	}
}

// What waits for one peer is bounded.
func TestProbesAreBounded(t *testing.T) {
	p := &peer{}
	p.asked.asking = true
	for range 2 * maxProbes {
		p.asked.hold(p, heldBack{})
	}
	if n := len(p.asked.waiting); n != maxProbes {
		t.Errorf("%d wait", n)
	}
}
