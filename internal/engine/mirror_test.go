package engine

import (
	"net/netip"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/packet"
	"github.com/nodetun/nodetun/internal/vnet"
	"github.com/nodetun/nodetun/routing"
)

// What the host sends to a mirror comes back whole, and nobody else's packet does.
func TestMirror(t *testing.T) {
	n := startNode(t, nil, nil, testPool)
	self := n.table.Self()
	for _, tc := range []struct {
		name     string
		src, dst netip.Addr
		back     bool
	}{
		{"IPv6", self.V6, routing.Mirror(routing.Prefix6()), true},
		{"IPv4", self.V4, routing.Mirror(testPool), true},
		{"a stranger's", netip.MustParseAddr("10.9.8.7"), routing.Mirror(testPool), false},
		{"to another address without a node", self.V4, routing.Mirror(testPool).Next(), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			from, to := netip.AddrPortFrom(tc.src, 5000), netip.AddrPortFrom(tc.dst, 9)
			before := n.engine.Reflected()
			if err := n.host.link.Write(vnet.Header{}, udpPacket(from, to, "to myself")); err != nil {
				t.Fatal(err)
			}
			select {
			case ip := <-n.host.packets:
				info, err := packet.Parse(ip)
				if err != nil || info.Proto != protoUDP {
					if tc.back {
						t.Fatalf("%x: %v", ip, err)
					}
					return // an ICMP error is as good as nothing
				}
				want := udpPacket(to, from, "to myself")
				if !tc.back || string(ip) != string(want) {
					t.Errorf("got %x, want %x", ip, want)
				}
				if n.engine.Reflected() != before+1 {
					t.Error("it was not counted")
				}
			case <-time.After(map[bool]time.Duration{true: time.Minute, false: 100 * time.Millisecond}[tc.back]):
				if tc.back {
					t.Error("nothing came back")
				}
			}
		})
	}
}
