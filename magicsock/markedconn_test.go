package magicsock

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/net/ipv4"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
)

// What is written to the marked path arrives unchanged, from another address of the
// same node; the answer to that address travels marked as well. Long headers have no
// mark.
func TestMarkedPath(t *testing.T) {
	cfg, changes := watchPath(loopbackConfig(1))
	a, b := start(t, cfg), start(t, loopbackConfig(2))
	meet(t, a, b)
	drain(t, a.Conn)
	type packet struct {
		data []byte
		from net.Addr
	}
	got := make(chan packet, 64)
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
				if m.N == 98 || m.N == 99 {
					got <- packet{bytes.Clone(m.Buffers[0][:m.N]), m.Addr}
				}
			}
		}
	}()
	defer func() { b.stop(); <-done }()
	establish(t, a, b, changes)

	marked := a.MarkedConn()
	short, long := quicPacket(99, 0x5f), quicPacket(98, 0xc0)
	for _, test := range []struct {
		name   string
		send   func([]byte, net.Addr) (int, error)
		packet []byte
		marked bool
	}{
		{"plain", a.PacketConn().WriteTo, short, false},
		{"marked", marked.WriteTo, short, true},
		{"marked, long header", marked.WriteTo, long, false},
		{"plain again", a.PacketConn().WriteTo, short, false},
	} {
		if _, err := test.send(bytes.Clone(test.packet), a.MappedAddr(b.id)); err != nil {
			t.Fatal(err)
		}
		p := <-got
		id, ok := b.NodeOf(p.from)
		if !bytes.Equal(p.data, test.packet) || !ok || id != a.id || isMarked(p.from.(*net.UDPAddr)) != test.marked {
			t.Errorf("%s: from %v (%v), % x …", test.name, p.from, id, p.data[:8])
		}
	}
	addr := *a.MappedAddr(b.id)
	addr.Port += markedPorts
	if _, err := a.PacketConn().WriteTo(bytes.Clone(short), &addr); err != nil {
		t.Fatal(err)
	}
	if p := <-got; !isMarked(p.from.(*net.UDPAddr)) {
		t.Errorf("an answer to the marked address comes from %v", p.from)
	}
}

// Marked and other packets may come in one receive.
func TestMarkedBatch(t *testing.T) {
	a := start(t, loopbackConfig(1))
	url, _ := identity.ParseRelayURL("https://relay.example.org")
	peer := testKey(2).NodeID()
	if err := a.AddNodeAddr(identity.NodeAddr{ID: peer, Relay: url}, "test"); err != nil {
		t.Fatal(err)
	}
	var payload []byte
	for _, first := range []byte{0x41, 0x01, 0x5f, 0x1f, 0x00} {
		payload = relay.AppendDatagram(payload, quicPacket(40, first))
	}
	a.deliverRelay(url, peer, payload)
	ms := batchOf(8)
	n, err := a.PacketConn().ReadBatch(ms, 0)
	if err != nil || n != 5 {
		t.Fatal(n, err)
	}
	for i, want := range []struct {
		first  byte
		marked bool
	}{{0x41, false}, {0x41, true}, {0x5f, false}, {0x5f, true}, {0x40, true}} {
		if first, addr := ms[i].Buffers[0][0], ms[i].Addr.(*net.UDPAddr); first != want.first || isMarked(addr) != want.marked {
			t.Errorf("packet %d: %#x from %v, want %+v", i, first, addr, want)
		}
	}
}

// What may be a marked packet may be STUN too, which is told first.
func TestSTUNIsNotMarked(t *testing.T) {
	stun := append([]byte{0x01, 0x01, 0, 0, 0x21, 0x12, 0xa4, 0x42}, make([]byte, 24)...)
	if k := classify(stun); k != classSTUN {
		t.Errorf("STUN is class %d", k)
	}
}

// A deadline, the end of the Conn and Close end reading, which yields nothing.
func TestMarkedConnReads(t *testing.T) {
	c := start(t, loopbackConfig(1))
	read := func(m *MarkedConn) chan error {
		ended := make(chan error, 1)
		go func() { _, err := m.ReadBatch(make([]ipv4.Message, 1), 0); ended <- err }()
		return ended
	}
	m := c.MarkedConn()
	ended := read(m)
	_ = m.SetReadDeadline(time.Time{})
	_ = m.SetReadDeadline(time.Now())
	if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("deadline: %v", err)
	}
	ended = read(c.MarkedConn())
	c.stop()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("end: %v", err)
	}
	if _, err := m.WriteTo([]byte("x"), &net.TCPAddr{}); err == nil {
		t.Error("wrote to a TCP address")
	}
	if _, err := m.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("[fd00::1]:1"))); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after the end: %v", err)
	}
}
