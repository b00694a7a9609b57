package udpconn

import (
	"net/netip"
	"testing"
)

// Packets leave from the source that is set, from any other when this host does not have
// it, and the receiver says where they arrived.
func TestSource(t *testing.T) {
	pair, err := Open(Config{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range pair.Conns() {
		defer c.Close()
	}
	c := pair.V4
	to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.3"), c.LocalAddr().Port())
	send := func() netip.Addr {
		t.Helper()
		if err := c.Write([]byte("x"), 0, 2, to); err != nil {
			t.Fatal(err)
		}
		ms := []Message{{Buf: make([]byte, MaxMessage)}}
		if _, err := c.Read(ms); err != nil {
			t.Fatal(err)
		}
		if ms[0].Local.Addr != to.Addr() || ms[0].Local.Link == 0 {
			t.Errorf("arrived at %+v", ms[0].Local)
		}
		return ms[0].From.Addr()
	}
	chosen := send()
	other := netip.MustParseAddr("127.0.0.9")
	c.SetSource(to, other)
	if got := send(); got != other {
		t.Errorf("from %s, want %s", got, other)
	}
	c.SetSource(to, netip.MustParseAddr("192.0.2.1"))
	if got := send(); got != chosen || c.from.get(to).IsValid() {
		t.Errorf("from %s, want %s", got, chosen)
	}
	c.SetSource(to, other)
	if err := c.Rebind(); err != nil {
		t.Fatal(err)
	}
	if c.from.get(to).IsValid() {
		t.Error("the source outlived the socket")
	}
	for i := range 2 * maxSources {
		c.SetSource(netip.AddrPortFrom(to.Addr(), uint16(i+1)), other)
	}
	if n := len(*c.from.all.Load()); n > maxSources {
		t.Errorf("%d sources", n)
	}
}
