package magicsock

import (
	"container/list"
	"slices"
	"testing"

	"github.com/nodetun/nodetun/identity"
)

// size is the number of keys kept.
func (k *keyring) size() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.order.Len() != len(k.entries) {
		return -1
	}
	return k.order.Len()
}

func TestKeyringIsBounded(t *testing.T) {
	k := keyring{own: testKey(1), entries: make(map[identity.NodeID]*list.Element)}
	first := testKey(2).NodeID()
	want, err := k.get(first)
	if err != nil {
		t.Fatal(err)
	}
	// Entries by hand: 4096 curve operations would take long.
	for i := range keyCache {
		id := identity.NodeID{byte(i), byte(i >> 8), 1}
		k.entries[id] = k.order.PushFront(&keyEntry{node: id})
	}
	other := testKey(3).NodeID()
	if _, err := k.get(other); err != nil {
		t.Fatal(err)
	}
	if _, ok := k.entries[first]; ok {
		t.Error("the oldest key is still there")
	}
	if again, err := k.get(first); err != nil || again != want {
		t.Errorf("the key of the first node changed: %v", err)
	}
	if _, err := k.get(identity.NodeID{}); err == nil {
		t.Error("a key for the zero node")
	}
}

// A batch that holds a disco message which does not open, and payload of
// nobody behind it, waits for the message once and is then dropped.
func TestHeldPayloadWaitsOnce(t *testing.T) {
	c := start(t, loopbackConfig(1))
	got := drain(t, c.Conn)
	bad := pingFrom(t, testKey(5), c.id)
	bad[len(bad)-1] ^= 1
	sender := listenUDP(t)
	to, _ := c.LocalAddrs()
	for range 10 {
		// One send of two packets, so that they arrive as one batch.
		both := append(slices.Clone(bad), quicPacket(len(bad), 0x40)...)
		if _, _, err := sender.WriteMsgUDPAddrPort(both, segmentOOB(uint16(len(bad))), to); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "the end of it", func() bool {
		m := c.Metrics()
		return m.BadDisco == 10 && m.UnknownSource == 10
	})
	if m := c.Metrics(); m.RecvDisco != 10 {
		t.Errorf("messages were taken twice: %+v", m)
	}
	if len(got) > 0 {
		t.Error("payload of nobody reached QUIC")
	}
	c.disco.mu.Lock()
	defer c.disco.mu.Unlock()
	if len(c.disco.held)+len(c.disco.queued) != 0 {
		t.Errorf("%d held, %d queued", len(c.disco.held), len(c.disco.queued))
	}
}
