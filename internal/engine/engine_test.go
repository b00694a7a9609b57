package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/internal/packet"
	"github.com/nodetun/nodetun/internal/vnet"
	"github.com/nodetun/nodetun/internal/wire"
	"github.com/nodetun/nodetun/netstack"
)

// echo sends data through a flow and wants it back after half-close.
func echo(t *testing.T, flow *netstack.Flow, data []byte) {
	t.Helper()
	var writer sync.WaitGroup
	writer.Go(func() {
		if _, err := flow.Write(data); err != nil {
			t.Errorf("write: %v", err)
		}
		if err := flow.CloseWrite(); err != nil {
			t.Errorf("close write: %v", err)
		}
	})
	got, err := io.ReadAll(flow)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes came back, %v; want %d", len(got), err, len(data))
	}
	writer.Wait()
}

func TestFlows(t *testing.T) {
	a, b := meet(t, "all")
	for _, v4 := range []bool{false, true} {
		flow, err := a.dial(t, b, echoPort, v4)
		if err != nil {
			t.Fatal(err)
		}
		echo(t, flow, bytes.Repeat([]byte("nodetun "), 100_000))
		flow.Close()
	}
	if _, err := a.dial(t, b, 9, false); !errors.Is(err, netstack.ErrRefused) {
		t.Errorf("a closed port: %v, want refused", err)
	}
	await(t, "all flows end", func() bool { return a.state().Flows == 0 && b.state().Flows == 0 })
	if s := a.state(); s.State != StateConnected || s.Path != "direct" {
		t.Errorf("%+v", s)
	}
}

func TestPing(t *testing.T) {
	a, b := meet(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	result, err := a.engine.Ping(ctx, b.id)
	if b.engine.peer(a.id).allowed() {
		t.Fatal("no rules, yet allowed")
	}
	if err == nil {
		t.Errorf("a denied peer was answered: %+v", result)
	}
	b.know(t, a, "icmp")
	if result, err = a.engine.Ping(ctx, b.id); err != nil || result.RTT <= 0 || result.Path != "direct" {
		t.Errorf("%+v, %v", result, err)
	}
	if _, err := a.engine.Ping(ctx, a.id); !errors.Is(err, ErrUnknownPeer) {
		t.Errorf("%v, want %v", err, ErrUnknownPeer)
	}
}

// udpPacket makes a packet with right checksums.
func udpPacket(src, dst netip.AddrPort, payload string) []byte {
	var ip []byte
	length := 8 + len(payload)
	if src.Addr().Is4() {
		ip = append(ip, 0x45, 0)
		ip = binary.BigEndian.AppendUint16(ip, uint16(20+length))
		ip = append(ip, 0, 1, 0x40, 0, 64, protoUDP, 0, 0)
		ip = append(ip, src.Addr().AsSlice()...)
		ip = append(ip, dst.Addr().AsSlice()...)
		binary.BigEndian.PutUint16(ip[10:], packet.Checksum(ip))
	} else {
		ip = append(ip, 0x60, 0, 0, 0)
		ip = binary.BigEndian.AppendUint16(ip, uint16(length))
		ip = append(ip, protoUDP, 64)
		ip = append(ip, src.Addr().AsSlice()...)
		ip = append(ip, dst.Addr().AsSlice()...)
	}
	at := len(ip)
	ip = binary.BigEndian.AppendUint16(ip, src.Port())
	ip = binary.BigEndian.AppendUint16(ip, dst.Port())
	ip = binary.BigEndian.AppendUint16(ip, uint16(length))
	ip = append(append(ip, 0, 0), payload...)
	binary.BigEndian.PutUint16(ip[at+6:], packet.L4Checksum(ip, protoUDP, at))
	return ip
}

// send gives the node a packet of its own host.
func (h *fakeHost) send(t *testing.T, ip []byte) {
	t.Helper()
	if err := h.link.Write(vnet.Header{}, ip); err != nil {
		t.Fatal(err)
	}
}

// next waits for the next packet that is not TCP.
func (h *fakeHost) next(t *testing.T) []byte {
	t.Helper()
	select {
	case ip := <-h.packets:
		return ip
	case <-time.After(time.Minute):
		t.Fatal("no packet came")
		return nil
	}
}

// none wants no packet until the peer's session has answered a ping, which the
// packets before it would have outrun.
func (h *fakeHost) none(t *testing.T, from *node, to *node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := from.engine.Ping(ctx, to.id); err != nil {
		t.Fatal(err)
	}
	select {
	case ip := <-h.packets:
		t.Errorf("a packet came: %x", ip)
	default:
	}
}

func TestPackets(t *testing.T) {
	a, b := meet(t, "udp/53")
	for _, v4 := range []bool{false, true} {
		src, dst := ends(t, a, b, v4, 5000, 53)
		for _, size := range []int{0, 1, 1000, 1370} {
			a.host.send(t, udpPacket(src, dst, string(make([]byte, size))))
			got := b.host.next(t)
			// b sees the same packet under its own numbers.
			bDst, bSrc := ends(t, b, a, v4, 53, 5000)
			if want := udpPacket(bSrc, bDst, string(make([]byte, size))); !bytes.Equal(got, want) {
				t.Fatalf("v4 %v, size %d: %x\nwant %x", v4, size, got, want)
			}
		}
	}
}

// ends are the two ends of a flow from a to b, as a numbers them.
func ends(t *testing.T, a, b *node, v4 bool, aPort, bPort uint16) (src, dst netip.AddrPort) {
	t.Helper()
	self, remote := a.table.Self(), a.entry(t, b)
	if v4 {
		return netip.AddrPortFrom(self.V4, aPort), netip.AddrPortFrom(remote.V4, bPort)
	}
	return netip.AddrPortFrom(self.V6, aPort), netip.AddrPortFrom(remote.V6, bPort)
}

// What this host opened may be answered, whatever the rules; nothing else may.
func TestPinhole(t *testing.T) {
	a, b := meet(t, "udp/53")
	a.know(t, b, "icmp") // b may do nothing with UDP at a
	src, dst := ends(t, a, b, false, 5000, 53)
	a.host.send(t, udpPacket(src, dst, "question"))
	b.host.next(t)

	b.host.send(t, udpPacket(dst, src, "answer"))
	if got := a.host.next(t); !bytes.HasSuffix(got, []byte("answer")) {
		t.Errorf("got %x", got)
	}
	other := netip.AddrPortFrom(src.Addr(), 5001)
	b.host.send(t, udpPacket(dst, other, "nobody asked"))
	a.host.none(t, b, a)
	// The refused sender is told: ICMPv6 administratively prohibited.
	reply := b.host.next(t)
	if i, err := packet.Parse(reply); err != nil || i.ICMPType != 1 || i.ICMPCode != 1 {
		t.Errorf("%+v, %v", i, err)
	}
	if n := a.engine.Dropped()["rules"]; n != 1 {
		t.Errorf("rules = %d, want 1", n)
	}
}

// hostile opens a tunnel connection of its own, without an engine behind it,
// and returns its session.
func hostile(t *testing.T, victim *node, allow ...string) *session {
	t.Helper()
	evil := startNode(t, nil, nil, testPool)
	victim.knowAt(t, evil.id, identity.NodeAddr{}, allow...)
	evil.know(t, victim, "all")
	p := evil.engine.peer(victim.id)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := p.connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// S13: a packet whose source is not the sender's address, or whose destination
// is not ours, is dropped and counted, under every rule.
func TestSpoofedPackets(t *testing.T) {
	victim := startNode(t, nil, nil, testPool)
	s := hostile(t, victim, "all")
	local, remote := s.ends.Local6, s.ends.Remote6
	other := netip.MustParseAddr("fd6e:6f64:6574::99")
	for _, tc := range []struct {
		name     string
		src, dst netip.Addr
		counter  string
	}{
		{"foreign source", other, remote, "source"},
		{"the victim's own address as source", remote, remote, "source"},
		{"loopback source", netip.IPv6Loopback(), remote, "source"},
		{"IPv4 source", netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), "source"},
		{"another destination", local, other, "destination"},
		{"loopback destination", local, netip.IPv6Loopback(), "destination"},
		{"multicast destination", local, netip.MustParseAddr("ff02::1"), "destination"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := victim.engine.Dropped()[tc.counter]
			ip := udpPacket(netip.AddrPortFrom(tc.src, 1), netip.AddrPortFrom(tc.dst, 2), "evil")
			if err := s.conn.SendDatagram(append([]byte{wire.KindWhole}, ip...)); err != nil {
				t.Fatal(err)
			}
			await(t, "it is counted", func() bool { return victim.engine.Dropped()[tc.counter] == before+1 })
		})
	}
	select {
	case ip := <-victim.host.packets:
		t.Errorf("a packet reached the host: %x", ip)
	default:
	}
}

// S13: the same for flows.
func TestSpoofedFlows(t *testing.T) {
	victim := startNode(t, nil, nil, testPool)
	s := hostile(t, victim, "tcp/7")
	for _, tc := range []struct {
		name   string
		header wire.FlowHeader
		want   wire.Status
	}{
		{"honest", wire.FlowHeader{SrcPort: 999, DstPort: echoPort}, wire.StatusOK},
		{"own address said aloud", wire.FlowHeader{Src: s.ends.Local6, SrcPort: 998, DstPort: echoPort}, wire.StatusOK},
		{"foreign source", wire.FlowHeader{Src: netip.MustParseAddr("fd6e:6f64:6574::99"), SrcPort: 1, DstPort: echoPort}, wire.StatusDenied},
		{"loopback destination", wire.FlowHeader{Dst: netip.IPv6Loopback(), SrcPort: 1, DstPort: echoPort}, wire.StatusDenied},
		{"port without a rule", wire.FlowHeader{SrcPort: 1, DstPort: 23}, wire.StatusDenied},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			stream, answer, err := s.request(ctx, tc.header)
			if err != nil || answer.Status != tc.want {
				t.Errorf("%+v, %v, want status %d", answer, err, tc.want)
			}
			if stream != nil {
				resetStream(stream)
			}
		})
	}
}

// S16: deny ends what runs and refuses what comes, before SetPeers returns.
func TestDeny(t *testing.T) {
	a, b := meet(t, "all")
	flow, err := a.dial(t, b, echoPort, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := flow.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1)
	if _, err := io.ReadFull(flow, buf); err != nil {
		t.Fatal(err)
	}
	b.know(t, a) // no rules: denied
	if _, err := io.ReadFull(flow, buf); err == nil {
		t.Error("the flow goes on")
	}
	await(t, "a knows that it was refused", func() bool { return a.state().State == StateRefused })
	if got := a.state().LastError; got != "refused: it has denied you" {
		t.Errorf("last error %q", got)
	}
	if _, err := a.dial(t, b, echoPort, false); err == nil {
		t.Error("a new flow opened")
	}
	b.know(t, a, "all")
	await(t, "a may again", func() bool {
		flow, err := a.dial(t, b, echoPort, false)
		if err != nil {
			return false
		}
		flow.Close()
		return true
	})
}

// S16: taking one rule away ends the flows under it and leaves the others.
func TestRuleTakenAway(t *testing.T) {
	a, b := meet(t, "tcp/7 icmp")
	flow, err := a.dial(t, b, echoPort, false)
	if err != nil {
		t.Fatal(err)
	}
	b.know(t, a, "icmp")
	if _, err := io.ReadAll(flow); err == nil {
		t.Error("the flow ended in peace, want a reset")
	}
	if s := a.state(); s.State != StateConnected {
		t.Errorf("state %s, want connected", s.State)
	}
	if _, err := a.dial(t, b, echoPort, false); !errors.Is(err, netstack.ErrRefused) {
		t.Errorf("%v, want refused", err)
	}
}

// S6: a stranger gets silence: no connection, and nothing is kept of it.
func TestStranger(t *testing.T) {
	a := startNode(t, nil, nil, testPool)
	b := startNode(t, nil, nil, testPool)
	a.know(t, b, "all")
	await(t, "a gives up", func() bool { return a.state().LastError != "" })
	if s := a.state(); s.State != StateUnreachable || !bytes.HasPrefix([]byte(s.LastError), []byte("no answer: offline, or it has not added you; no node with this id answers at 127.0.0.1:")) {
		t.Errorf("%+v", s)
	}
	if _, known := b.end.Socket().Remote(a.id); known {
		t.Error("b keeps something of a stranger")
	}
}

// S4: a node that restarted without a word answers old connections with a
// reset, and its peer connects anew.
func TestRestart(t *testing.T) {
	a, b := meet(t, "all")
	if flow, err := a.dial(t, b, echoPort, false); err != nil {
		t.Fatal(err)
	} else {
		flow.Close()
	}
	before := a.engine.peer(b.id).current.Load()
	b.stop()
	await(t, "a knows that b went", func() bool { return a.state().State != StateConnected })
	if got := a.state().LastError; got != "it was shut down" {
		t.Errorf("last error %q", got)
	}
	again := startNode(t, b.key, nil, netip.MustParsePrefix("198.18.0.0/16"))
	again.know(t, a, "all") // b dials a
	await(t, "connected again", func() bool {
		s := a.engine.peer(b.id).current.Load()
		return s != nil && s != before
	})
	flow, err := a.dial(t, again, echoPort, true)
	if err != nil {
		t.Fatal(err)
	}
	echo(t, flow, []byte("hello again"))
	flow.Close()
}

// Both dial at once, many times over: one connection stays, and it works.
func TestBothDial(t *testing.T) {
	for range 5 {
		a := startNode(t, nil, nil, testPool)
		b := startNode(t, nil, nil, testPool)
		var start sync.WaitGroup
		start.Go(func() { a.know(t, b, "all") })
		start.Go(func() { b.know(t, a, "all") })
		start.Wait()
		await(t, "a flow each way", func() bool {
			ab, errA := a.dial(t, b, echoPort, false)
			ba, errB := b.dial(t, a, echoPort, false)
			if errA != nil || errB != nil {
				return false
			}
			ab.Close()
			ba.Close()
			return true
		})
		await(t, "one connection stays", func() bool {
			return len(a.engine.peer(b.id).live()) == 1 && len(b.engine.peer(a.id).live()) == 1
		})
		a.stop()
		b.stop()
	}
}

func TestChooseSession(t *testing.T) {
	small, large := identity.NodeID{1}, identity.NodeID{2}
	bySmall := &session{instance: "x", dialler: small}
	byLarge := &session{instance: "x", dialler: large}
	for _, tc := range []struct {
		name       string
		old, fresh *session
		freshWins  bool
	}{
		{"restarted", bySmall, &session{instance: "y", dialler: large}, true},
		{"same dialler", bySmall, &session{instance: "x", dialler: small}, true},
		{"began together, the smaller first", bySmall, byLarge, false},
		{"began together, the larger first", byLarge, bySmall, true},
		{"made to replace", bySmall, &session{instance: "x", dialler: large, replaces: true}, true},
		{"made to replace, seen first", &session{instance: "x", dialler: large, replaces: true}, bySmall, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			winner, loser := chooseUp(tc.old, tc.fresh)
			if (winner == tc.fresh) != tc.freshWins || winner == loser {
				t.Errorf("fresh wins: %v, want %v", winner == tc.fresh, tc.freshWins)
			}
		})
	}
}
