package hostile

import (
	"context"
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/hosttest"
	"github.com/nodetun/nodetun/internal/nstest"
)

// udp is an IP packet with an empty UDP packet to port 9 in it.
func udp(src, dst netip.Addr) []byte {
	payload := []byte{0x12, 0x34, 0, 9, 0, 8, 0, 0}
	if src.Is4() {
		ip := []byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0}
		ip = append(append(ip, src.AsSlice()...), dst.AsSlice()...)
		var sum uint32
		for i := 0; i < len(ip); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(ip[i:]))
		}
		sum = sum&0xffff + sum>>16
		binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
		return append(ip, payload...)
	}
	ip := []byte{0x60, 0, 0, 0, 0, 8, 17, 64}
	return append(append(append(ip, src.AsSlice()...), dst.AsSlice()...), payload...)
}

// S13: a host that is a router for others, with the rules that a peer has by default or with
// all, is none for a peer: whatever source and destination its packets have, none leaves by
// another link.
func TestNetnsForward(t *testing.T) {
	victim, eve := hosttest.New(t, "v"), newAttacker(t)
	network := hosttest.NewInternet(t)
	addr, _, _ := strings.Cut(network.Join(t, victim).Addr, "/")
	eve.join(t, network)

	// Behind the victim there is a network, which it routes for everybody.
	lan := hosttest.New(t, "lan")
	nstest.Veth(t, victim.NS, "10.77.0.1/24", lan.NS, "10.77.0.2/24")
	lan.NS.Run(t, "ip", "route", "add", "default", "via", "10.77.0.1")
	for _, key := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		victim.NS.Run(t, "sysctl", "-qw", key+"=1")
	}
	victim.NS.Run(t, "nft", "add table inet seen; add chain inet seen forward { type filter hook forward priority -300; counter; }")
	forwarded := func() string {
		out := victim.NS.Run(t, "nft", "list", "chain", "inet", "seen", "forward")
		_, rest, _ := strings.Cut(out, "counter packets ")
		n, _, _ := strings.Cut(rest, " ")
		return n
	}
	victim.Nodetun(t, "peer", "add", eve.key.NodeID().String(), "--name", "eve")
	victim.Configure(t, "metrics_addr = \""+metricsAt+"\"\n")
	victim.Start(t, "--relay", "none", "--discovery", "none", "--dns", "none")
	eve.attacks(t, victim, addr)

	// The host does forward, for those on its own links.
	eve.host.NS.Run(t, "ip", "route", "add", "10.77.0.0/24", "via", addr)
	eve.host.NS.Run(t, "ping", "-c", "1", "-W", "5", "10.77.0.2")
	before := forwarded()
	if before == "0" || before == "" {
		t.Fatalf("the victim has forwarded %q packets: it is no router", before)
	}
	eve.host.NS.Run(t, "ip", "route", "del", "10.77.0.0/24")

	self := victim.Status(t).Self
	own, ownV4 := netip.MustParseAddr(self.IPv6), netip.MustParseAddr(self.IPv4)
	parse := netip.MustParseAddr
	tunnel4 := [2]netip.Addr{parse("0.0.0.1"), parse("0.0.0.2")} // as IPv4 travels in it
	var packets [][]byte
	for _, dst := range []string{"10.77.0.2", "10.77.0.1", addr, "127.0.0.1", "255.255.255.255", "10.77.0.255", "224.0.0.1", "100.100.1.1"} {
		for _, src := range []netip.Addr{tunnel4[0], ownV4, parse("10.77.0.2"), parse("10.77.0.9"), parse("127.0.0.1"), parse(addr)} {
			packets = append(packets, udp(src, parse(dst)))
		}
	}
	for _, dst := range []string{"64:ff9b::a4d:2", "2002:a4d:2::1", "::ffff:10.77.0.2", "fd6e:6f64:6574::99", "fe80::1", "ff02::1", "2001:db8::1", "::1"} {
		for _, src := range []netip.Addr{eve.address(t), own, parse("2001:db8::1"), parse("fe80::1")} {
			packets = append(packets, udp(src, parse(dst)))
		}
	}
	for _, rules := range []string{"the default rules", "all"} {
		if rules == "all" {
			victim.Nodetun(t, "allow", "eve", "all")
		}
		dropped := droppedBy(t, victim)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		if err := Send(packets)(ctx, eve.peer(1)); err != nil {
			t.Fatal(err)
		}
		cancel()
		if now := forwarded(); now != before {
			t.Errorf("with %s: %s packets forwarded, before %s", rules, now, before)
		}
		if n := droppedBy(t, victim) - dropped; n < len(packets) {
			t.Errorf("with %s: %d packets of %d were dropped", rules, n, len(packets))
		}
	}
}

// droppedBy is how many packets a node dropped, for whatever reason.
func droppedBy(t *testing.T, h *hosttest.Host) int { return int(figure(t, h, "nodetun_dropped_total")) }
