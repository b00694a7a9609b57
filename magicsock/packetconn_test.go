package magicsock

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock/nodemap"
	"github.com/nodetun/nodetun/magicsock/udpconn"
	"github.com/nodetun/nodetun/relay"
)

func TestReadDeadline(t *testing.T) {
	c := start(t, loopbackConfig(1))
	p := c.PacketConn()
	ended := make(chan error, 1)
	read := func() { _, err := p.ReadBatch(batchOf(8), 0); ended <- err }

	go read()
	p.SetReadDeadline(time.Now())
	if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("past deadline: %v", err)
	}
	go read()
	if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the deadline is still in force: %v", err)
	}
	p.SetReadDeadline(time.Time{})
	go read()
	waitFor(t, "a blocked reader", p.waiting.Load)
	p.wake() // a wake without anything to read is no end
	waitFor(t, "a reader blocked again", p.waiting.Load)
	c.stop()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("after close: %v", err)
	}
	if _, err := p.WriteTo([]byte("x"), c.MappedAddr(testKey(2).NodeID())); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
}

// What comes from elsewhere wakes a reader that is blocked in the socket.
func TestRelayPacketWakesReader(t *testing.T) {
	a := start(t, loopbackConfig(1))
	url, err := identity.ParseRelayURL("https://relay.example.org")
	if err != nil {
		t.Fatal(err)
	}
	peer := testKey(2).NodeID()
	if err := a.AddNodeAddr(identity.NodeAddr{ID: peer, Relay: url}, "test"); err != nil {
		t.Fatal(err)
	}
	p := a.PacketConn()
	for i := range 200 {
		payload := quicPacket(40+i, 0x40)
		got := make(chan []byte, 1)
		go func() {
			b := make([]byte, 1500)
			n, addr, err := p.ReadFrom(b)
			if err != nil {
				t.Errorf("read: %v", err)
			}
			if id, _ := a.NodeOf(addr); id != peer {
				t.Errorf("from %v", addr)
			}
			got <- b[:n]
		}()
		if i%2 == 0 {
			waitFor(t, "a blocked reader", p.waiting.Load)
		}
		a.deliverRelay(url, peer, relay.AppendDatagram(nil, payload))
		if b := <-got; !bytes.Equal(b, payload) {
			t.Fatalf("packet %d: got %d bytes", i, len(b))
		}
	}
}

// A batch larger than the reader's messages is handed up over several reads,
// in order, without what is not QUIC.
func TestLeftoversAreKept(t *testing.T) {
	a := start(t, loopbackConfig(1))
	url, _ := identity.ParseRelayURL("https://relay.example.org")
	peer := testKey(2).NodeID()
	if err := a.AddNodeAddr(identity.NodeAddr{ID: peer, Relay: url}, "test"); err != nil {
		t.Fatal(err)
	}
	var payload []byte
	const packets = 21
	for i := range packets {
		payload = relay.AppendDatagram(payload, append(quicPacket(30, 0x40), byte(i)))
		payload = relay.AppendDatagram(payload, []byte{0, 0, byte(i)}) // garbage between
	}
	payload = relay.AppendDatagram(payload, quicPacket(1453, 0x40)) // too large for any of ours
	a.deliverRelay(url, peer, payload)
	var got []byte
	ms := batchOf(8)
	for len(got) < packets {
		n, err := a.PacketConn().ReadBatch(ms, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range ms[:n] {
			got = append(got, m.Buffers[0][m.N-1])
		}
	}
	for i, b := range got {
		if int(b) != i {
			t.Fatalf("order: % x", got)
		}
	}
}

func TestECNReachesQUIC(t *testing.T) {
	cfg, changes := watchPath(loopbackConfig(1))
	a, b := start(t, cfg), start(t, loopbackConfig(2))
	meet(t, a, b)
	drain(t, a.Conn)
	seen := make(chan uint8, 64)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ms := batchOf(8)
		for {
			n, err := b.PacketConn().ReadBatch(ms, 0)
			if err != nil {
				return
			}
			for _, m := range ms[:n] {
				tos := udpconn.ParseControl(m.OOB[:m.NN]).TOS
				if m.N == 99 {
					seen <- tos & 3
				}
			}
		}
	}()
	defer func() { b.stop(); <-done }()
	establish(t, a, b, changes)
	for ecn := range uint8(4) {
		// QUIC marks by the family of the address that it sees, which is IPv6.
		oob := udpconn.AppendTOS(nil, ecn, true)
		if len(oob) == 0 {
			t.Skip("this system hands no control messages up")
		}
		if _, _, err := a.PacketConn().WriteMsgUDP(quicPacket(99, 0x40), oob, a.MappedAddr(b.id)); err != nil {
			t.Fatal(err)
		}
		if got := <-seen; got != ecn {
			t.Errorf("ecn %d arrived as %d", ecn, got)
		}
	}
}

// An established path costs no allocation, neither to send nor to receive.
func TestEstablishedPathDoesNotAllocate(t *testing.T) {
	oob := segmentOOB(1200)
	if oob == nil {
		t.Skip("no segmentation on this system")
	}
	a, b := start(t, loopbackConfig(1)), start(t, loopbackConfig(2))
	meet(t, a, b)
	drain(t, a.Conn)
	addr, from := a.MappedAddr(b.id), b.PacketConn()
	ms := batchOf(8)
	deadline := time.Now().Add(time.Minute)
	for { // until the path is direct; disco needs b to be read
		if _, err := a.PacketConn().WriteTo(quicPacket(100, 0x40), addr); err != nil {
			t.Fatal(err)
		}
		from.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		for err := error(nil); err == nil; {
			_, err = from.ReadBatch(ms, 0)
		}
		if info, _ := a.Remote(b.id); info.Conn == nodemap.ConnDirect {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no direct path")
		}
	}
	const packets = 10
	data := make([]byte, packets*1200)
	for i := range packets {
		data[i*1200] = 0x40
	}
	from.SetReadDeadline(time.Now().Add(time.Minute))
	if n := testing.AllocsPerRun(500, func() {
		if _, _, err := a.PacketConn().WriteMsgUDP(data, oob, addr); err != nil {
			t.Fatal(err)
		}
		for left := packets; left > 0; {
			n, err := from.ReadBatch(ms, 0)
			if err != nil {
				t.Fatal(err)
			}
			left -= n
		}
	}); n != 0 {
		t.Errorf("%v allocations for %d packets sent and received", n, packets)
	}
}

func TestWriteToNobody(t *testing.T) {
	c := start(t, loopbackConfig(1))
	for _, addr := range []net.Addr{
		net.UDPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:9")),
		net.UDPAddrFromAddrPort(netip.MustParseAddrPort("[fd15:70a:510b::77]:12345")),
		c.MappedAddr(testKey(3).NodeID()), // known, but nowhere to be found
	} {
		if _, err := c.PacketConn().WriteTo(quicPacket(50, 0x40), addr); err != nil {
			t.Errorf("%v: %v", addr, err)
		}
	}
	if m := c.Metrics(); m.NoRoute != 3 || m.UDP4.TxPackets != 0 {
		t.Errorf("counted %+v", m)
	}
	if _, err := c.PacketConn().WriteTo([]byte("x"), &net.TCPAddr{}); err == nil {
		t.Error("a TCP address was taken")
	}
}

func TestRebindKeepsConnection(t *testing.T) {
	a, b := start(t, loopbackConfig(1)), start(t, loopbackConfig(2))
	meet(t, a, b)
	p := connect(t, a.PacketConn(), b.PacketConn(), a.MappedAddr(b.id))
	p.transfer(t, 1<<20)
	b.NetworkChanged()
	p.transfer(t, 1<<20)
	a.NetworkChanged()
	p.transfer(t, 1<<20)
}

func TestDirectIPv6(t *testing.T) {
	a, b := start(t, loopbackConfig(1)), start(t, loopbackConfig(2))
	_, v6 := b.LocalAddrs()
	if !v6.IsValid() {
		t.Skip("no IPv6 here")
	}
	if err := a.AddNodeAddr(identity.NodeAddr{ID: b.id, Direct: []netip.AddrPort{v6}}, "test"); err != nil {
		t.Fatal(err)
	}
	p := connect(t, a.PacketConn(), b.PacketConn(), a.MappedAddr(b.id))
	p.transfer(t, 8<<20)
	if info, _ := a.Remote(b.id); info.UDP != v6 {
		t.Errorf("path %v, want %v", info.UDP, v6)
	}
	if m := b.Metrics(); m.UDP6.RxBytes < 8<<20 {
		t.Errorf("counted %+v", m)
	}
}

// A flood from a relay does not keep the reader from its socket, even if a wake
// left the socket's deadline in the past.
func TestInboxDoesNotStarveSocket(t *testing.T) {
	cfg, changes := watchPath(loopbackConfig(1))
	a, b := start(t, cfg), start(t, loopbackConfig(2))
	meet(t, a, b)
	drain(t, a.Conn)
	got := drain(t, b.Conn)
	establish(t, a, b, changes)

	url, _ := identity.ParseRelayURL("https://relay.example.org")
	flood := testKey(3).NodeID()
	if err := b.AddNodeAddr(identity.NodeAddr{ID: flood, Relay: url}, "test"); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		payload := relay.AppendDatagram(nil, quicPacket(50, 0x40))
		for {
			select {
			case <-stop:
				return
			default:
				b.deliverRelay(url, flood, payload)
			}
		}
	}()
	defer func() { close(stop); <-done }()
	deadline := time.After(time.Minute)
	for i := range 20 {
		b.Conn.direct.SetReadDeadline(longAgo)
		if _, err := a.PacketConn().WriteTo(quicPacket(100, 0x60+byte(i)), a.MappedAddr(b.id)); err != nil {
			t.Fatal(err)
		}
		for seen := false; !seen; {
			select {
			case p := <-got:
				seen = p[0] == 0x60+byte(i)
			case <-deadline:
				t.Fatalf("packet %d did not come through", i)
			}
		}
	}
}
