package dht

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nodetun/nodetun/discovery"
	"github.com/nodetun/nodetun/discovery/dht/dhttest"
	"github.com/nodetun/nodetun/discovery/pkarr"
	"github.com/nodetun/nodetun/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// network runs a DHT; client makes one that begins at its first nodes.
func network(t *testing.T, n int) (nodes []*dhttest.Node, client func() *Client) {
	t.Helper()
	nodes = dhttest.Start(t, dhttest.Loopback(n)...)
	return nodes, func() *Client {
		return New(Config{Bootstrap: dhttest.Bootstrap(nodes), History: &pkarr.History{}})
	}
}

// signed makes packets of a node.
type signed struct {
	key    *identity.SecretKey
	signer *pkarr.Signer
}

func newSigned() signed {
	key := identity.GenerateSecretKey()
	return signed{key, pkarr.NewSigner(key, 0, nil)}
}

func (s signed) packet(t *testing.T, at string) pkarr.Packet {
	t.Helper()
	p, err := s.signer.Sign(time.Now(), identity.NodeAddr{ID: s.key.NodeID(), Direct: []netip.AddrPort{netip.MustParseAddrPort(at)}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The first test vector of BEP 44.
func TestVector(t *testing.T) {
	unhex := func(text string) []byte {
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	key, err := identity.NodeIDFromBytes(unhex("77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548"))
	if err != nil {
		t.Fatal(err)
	}
	target := targetOf(key)
	if got := hex.EncodeToString(target[:]); got != "4a533d47ec9c7d95b1ad75f576cffc641853b750" {
		t.Errorf("target %s", got)
	}
	signature := unhex("305ac8aeb6c9c151fa120f120ea2cfb923564e11552d06a5d856091e5e853cff1260d3f39e4999684aa92eb73ffd136e6f4f3ecbfda0ce53a1608ecd7ae21f01")
	if !key.Verify(identity.PkarrMessage(1, []byte("Hello World!")), signature) {
		t.Error("the signature is refused")
	}
}

func TestPutGet(t *testing.T) {
	nodes, client := network(t, 100)
	n := newSigned()
	old, p := n.packet(t, "192.0.2.1:1"), n.packet(t, "192.0.2.2:2")
	a, b := client(), client()
	if _, err := a.Get(t.Context(), n.key.NodeID()); !errors.Is(err, pkarr.ErrNotFound) {
		t.Errorf("before it was put: %v", err)
	}
	if err := a.Put(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	kept := 0
	for _, node := range nodes {
		kept += node.Items()
	}
	if kept != nearest {
		t.Errorf("%d nodes keep it", kept)
	}
	got, err := b.Get(t.Context(), n.key.NodeID())
	if err != nil || string(got.Payload()) != string(p.Payload()) {
		t.Errorf("%v, %v", got, err)
	}
	if err := b.Put(t.Context(), old); !errors.Is(err, pkarr.ErrOld) {
		t.Errorf("an old one: %v", err)
	}
	// The newer one is found though the older one comes first.
	newer := n.packet(t, "192.0.2.3:3")
	if err := b.Put(t.Context(), newer); err != nil {
		t.Fatal(err)
	}
	var items []discovery.Item
	if err := a.Resolve(t.Context(), n.key.NodeID(), func(i discovery.Item) { items = append(items, i) }); err != nil {
		t.Fatal(err)
	}
	if len(items) != 1 || items[0].Source != Source || items[0].Addr.Direct[0].String() != "192.0.2.3:3" || !items[0].Signed.Equal(newer.Time()) {
		t.Errorf("%+v", items)
	}
}

// What was seen before is not replaced by something older (S27).
func TestReplayed(t *testing.T) {
	_, client := network(t, 20)
	n := newSigned()
	old, newer := n.packet(t, "192.0.2.1:1"), n.packet(t, "192.0.2.2:2")
	c := client()
	if err := c.Put(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	c.cfg.History.Set(n.key.NodeID(), newer.Timestamp())
	err := c.Resolve(t.Context(), n.key.NodeID(), func(i discovery.Item) { t.Errorf("found %+v", i) })
	if !errors.Is(err, pkarr.ErrReplayed) {
		t.Error(err)
	}
}

// Half of the nodes are silent, and some lie: the item is found and kept all the same.
func TestBadNodes(t *testing.T) {
	nodes, client := network(t, 80)
	n, other := newSigned(), newSigned()
	forged := n.packet(t, "192.0.2.66:6")
	foreign := other.packet(t, "192.0.2.67:7")
	item := func(p pkarr.Packet, signature []byte) map[string]any {
		return map[string]any{"sig": string(signature), "seq": int64(p.Timestamp()) + 1, "v": string(p.Message())}
	}
	lies := []map[string]any{
		item(forged, forged.Signature()), // another time than was signed
		item(foreign, foreign.Signature()),
		{"sig": strings.Repeat("x", 64), "v": "no number"},
		{"sig": "short", "seq": int64(1), "v": "x"},
		{"sig": int64(1), "seq": "1", "v": []any{}, "nodes": int64(3), "token": []any{}},
		{"id": "short"},
	}
	for i, node := range nodes[3:] {
		switch {
		case i%2 == 0:
			node.Replace(func(map[string]any) map[string]any { return nil })
		case i%5 == 0:
			node.Replace(func(answer map[string]any) map[string]any {
				if said, ok := answer["r"].(map[string]any); ok {
					for key, value := range lies[i%len(lies)] {
						said[key] = value
					}
				}
				return answer
			})
		}
	}
	p := n.packet(t, "192.0.2.1:1")
	began := time.Now()
	if err := client().Put(t.Context(), p); err != nil {
		t.Fatalf("%v after %v", err, time.Since(began))
	}
	got, err := client().Get(t.Context(), n.key.NodeID())
	if err != nil || got.Addr().Direct[0].String() != "192.0.2.1:1" {
		t.Errorf("%v, %v after %v", got, err, time.Since(began))
	}
}

// A walk asks so many nodes and no more, whatever they answer.
func TestWalkIsBounded(t *testing.T) {
	nodes, client := network(t, 10)
	var made atomic.Uint32
	for _, node := range nodes {
		node.Replace(func(answer map[string]any) map[string]any {
			var many []byte
			for range 40 { // nodes that are not there, ever nearer
				number := made.Add(1)
				many = append(many, make([]byte, 16)...)
				many = binary.BigEndian.AppendUint32(many, number)
				many = binary.BigEndian.AppendUint32(many, 127<<24|99<<16|number&0xffff)
				many = binary.BigEndian.AppendUint16(many, 9)
			}
			answer["r"].(map[string]any)["nodes"] = string(many)
			return answer
		})
	}
	c := client()
	w, err := c.begin(t.Context(), targetOf(newSigned().key.NodeID()))
	if err != nil {
		t.Fatal(err)
	}
	defer w.conn.Close()
	if err := w.run(t.Context(), func(reply) bool { return true }); err != nil {
		t.Error(err)
	}
	if w.count > maxAsked || len(w.list) > 4*maxAsked {
		t.Errorf("%d asked of %d", w.count, len(w.list))
	}
}

func TestUsable(t *testing.T) {
	w := &walk{tun: []netip.Prefix{netip.MustParsePrefix("198.18.0.0/16")}}
	inside, outside := netip.MustParseAddr("192.168.1.1"), netip.MustParseAddr("1.2.3.4")
	for _, tc := range []struct {
		addr            string
		fromIn, fromOut bool
	}{
		{"8.8.4.4:1", true, true},
		{"8.8.4.4:0", false, false},
		{"192.168.1.7:1", true, false},
		{"10.0.0.1:1", true, false},
		{"127.0.0.1:1", true, false},
		{"169.254.1.1:1", true, false},
		{"100.64.0.1:1", true, false},
		{"240.0.0.1:1", true, false},
		{"198.18.0.9:1", false, false},
		{"224.0.0.251:5353", false, false},
		{"255.255.255.255:1", false, false},
		{"0.0.0.0:1", false, false},
	} {
		at := netip.MustParseAddrPort(tc.addr)
		if in, out := w.usable(at, inside), w.usable(at, outside); in != tc.fromIn || out != tc.fromOut {
			t.Errorf("%s: %v, %v", tc.addr, in, out)
		}
	}
}

func TestNobodyThere(t *testing.T) {
	silent := dhttest.Start(t, dhttest.Loopback(1)...)
	silent[0].Replace(func(map[string]any) map[string]any { return nil })
	c := New(Config{Bootstrap: dhttest.Bootstrap(silent)})
	id := newSigned().key.NodeID()
	if _, err := c.Get(t.Context(), id); !errors.Is(err, ErrUnreachable) {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.Get(ctx, id); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	c = New(Config{Bootstrap: []string{"no port", "127.0.0.1:x"}})
	if _, err := c.Get(t.Context(), id); !errors.Is(err, ErrUnreachable) {
		t.Error(err)
	}
}

func FuzzReply(f *testing.F) {
	f.Add([]byte("d1:rd2:id20:abcdefghij01234567895:nodes26:abcdefghij0123456789\x7f\x00\x00\x01\x1a\xe13:seqi7e3:sig2:xx5:token1:t1:v1:xe1:t2:aa1:y1:re"))
	f.Add([]byte("d1:eli302e3:olde1:t2:aa1:y1:ee"))
	f.Add(query("aa", "get", id{1}, getArgs(id{2})))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parse(b)
		if err != nil {
			return
		}
		if len(r.nodes)*contactLen > len(b) || r.code != 0 && r.payload != nil {
			t.Errorf("%+v", r)
		}
		if r.payload != nil {
			if p, err := pkarr.Parse(identity.NodeID{1}, r.payload); err == nil {
				t.Errorf("%+v", p)
			}
		}
	})
}
