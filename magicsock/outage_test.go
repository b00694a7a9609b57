package magicsock

import (
	"context"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock/disco"
	"github.com/nodetun/nodetun/magicsock/nodemap"
)

// A transfer in full swing, with no relay to fall back on, meets an outage long
// enough for QUIC's probe timer to back off. It goes on right after the outage,
// because the last packets are sent again at the first pong.
func TestOutageEndsQuickly(t *testing.T) {
	const outage = 5 * time.Second
	ca, cb := loopbackConfig(1), loopbackConfig(2)
	ca.Paired, cb.Paired = everybody, everybody
	a, dropA := startLossy(t, ca)
	b, dropB := startLossy(t, cb)
	meet(t, a, b)
	p := connect(t, a.PacketConn(), b.PacketConn(), a.MappedAddr(b.id))

	ctx, cancel := context.WithCancel(context.Background())
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		s, err := p.dialler.OpenUniStreamSync(ctx)
		if err != nil {
			return
		}
		defer s.CancelWrite(0)
		for chunk := make([]byte, 64<<10); ctx.Err() == nil; {
			if _, err := s.Write(chunk); err != nil {
				return
			}
		}
	}()
	s, err := p.acceptor.AcceptUniStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	progress := func(n int64) time.Duration {
		began := time.Now()
		s.SetReadDeadline(began.Add(time.Minute))
		if _, err := io.CopyN(struct{ io.Writer }{io.Discard}, s, n); err != nil {
			t.Fatalf("the stream broke: %v", err)
		}
		return time.Since(began)
	}
	progress(8 << 20)
	// QUIC's own probe may get through before the first pong; then nothing has to
	// be sent again, and it takes another outage to see it.
	resent := func() uint64 { return uint64(a.Metrics().Resent) }
	for tries := 0; tries < 4 && resent() == 0; tries++ {
		dropA.Store(true)
		dropB.Store(true)
		over := time.After(outage)
		<-over
		dropA.Store(false)
		dropB.Store(false)
		took := progress(16 << 20) // more than the windows hold
		t.Logf("data flowed %v after an outage of %v; %d packets were sent again", took.Round(time.Millisecond), outage, resent())
		if took > 15*time.Second { // a second on a quiet machine
			t.Errorf("data flowed only %v after the outage", took)
		}
	}
	cancel()
	s.CancelRead(0)
	<-sent
	if resent() == 0 {
		t.Error("nothing was sent again")
	}
}

// A node goes by its other address from one outage to the next, and by all of them it
// is the same node.
func TestOutageChangesAddress(t *testing.T) {
	id := testKey(2).NodeID()
	nodes := nodemap.New(nodemap.Config{Self: testKey(1).NodeID(), Peer: everybody})
	p := newPaths(nodes, nil)
	now := time.Now()
	from := netip.MustParseAddrPort("192.0.2.2:41820")
	if _, err := nodes.Add(now, identity.NodeAddr{ID: id, Direct: []netip.AddrPort{from}}, nodemap.SourceApp); err != nil {
		t.Fatal(err)
	}
	nodes.HandlePing(now, id, nodemap.UDPAddr(from), disco.TxID{1}, disco.PingLen)
	first := p.mappedAddr(id).AddrPort()
	to := first
	send := func() { p.route(now, to, []byte("something"), 9, 0) }
	hear := func(after time.Duration, other bool) {
		t.Helper()
		now = now.Add(after)
		_, addrs, revived := p.received(now, nodemap.UDPAddr(from), identity.NodeID{}, 100)
		addr := addrs[0]
		if revived != (addr.AddrPort() != to) || revived != other {
			t.Errorf("%v, revived %v, want another address than %v: %v", addr, revived, to, other)
		}
		to = addr.AddrPort()
		for _, a := range addrs {
			if got, ok := p.nodeOf(a.AddrPort()); !ok || got != id {
				t.Errorf("%v is %v", a, got)
			}
		}
		if isMarked(addr) || !isMarked(addrs[1]) {
			t.Errorf("not marked %v, marked %v", addr, addrs[1])
		}
	}
	const outage = 10 * time.Second
	hear(0, false)
	for range 2 {
		now = now.Add(time.Second)
		send()
		hear(outage, true)
		hear(time.Millisecond, false)
	}
	if to != first {
		t.Errorf("a third address: %v", to)
	}
	if got := p.mappedAddr(id).AddrPort(); got != first {
		t.Errorf("dials go to %v", got)
	}
}
