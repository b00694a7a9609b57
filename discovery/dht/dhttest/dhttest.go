package dhttest

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/nodetun/nodetun/discovery/dht/bencode"
)

// known is how many others a node names.
const known = 8

// Node is one node of the DHT: it finds nodes, gets and puts mutable items (BEP 5, BEP 44).
type Node struct {
	ID   [20]byte
	Addr netip.AddrPort

	conn   net.PacketConn
	others []*Node // that it knows
	token  string

	mu    sync.Mutex // guards the fields below
	items map[[20]byte]map[string]any
	// Replace, if set, makes of an answer what is sent; nil: nothing is.
	replace func(answer map[string]any) map[string]any
}

// Start runs nodes at the addresses until the test ends. Each knows those that are near to
// it, and a few others.
func Start(t testing.TB, addrs ...netip.AddrPort) []*Node {
	t.Helper()
	var nodes []*Node
	for _, addr := range addrs {
		conn, err := net.ListenPacket("udp4", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		n := &Node{conn: conn, Addr: netip.MustParseAddrPort(conn.LocalAddr().String()), token: rand.Text(), items: make(map[[20]byte]map[string]any)}
		_, _ = rand.Read(n.ID[:])
		nodes = append(nodes, n)
	}
	var tasks sync.WaitGroup
	for i, n := range nodes {
		n.others = nearest(nodes, n.ID, known+1)
		for k := 1; k < len(nodes); k *= 2 {
			n.others = append(n.others, nodes[(i+k)%len(nodes)])
		}
		tasks.Go(n.serve)
	}
	t.Cleanup(func() {
		for _, n := range nodes {
			_ = n.conn.Close()
		}
		tasks.Wait()
	})
	return nodes
}

// Loopback are n addresses on loopback, each an own one.
func Loopback(n int) (list []netip.AddrPort) {
	for i := range n {
		list = append(list, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 88, byte(i >> 8), byte(i)}), 0))
	}
	return list
}

// Bootstrap are the addresses of the first nodes.
func Bootstrap(nodes []*Node) (list []string) {
	for _, n := range nodes[:min(len(nodes), 3)] {
		list = append(list, n.Addr.String())
	}
	return list
}

// Items returns how many items the node keeps.
func (n *Node) Items() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.items)
}

// Replace has the node say something else than it would: what f makes of the answer, a
// dictionary of BEP 5; nothing if that is nil.
func (n *Node) Replace(f func(answer map[string]any) map[string]any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.replace = f
}

func nearest(nodes []*Node, target [20]byte, count int) []*Node {
	list := slices.Clone(nodes)
	slices.SortFunc(list, func(a, b *Node) int {
		for i := range target {
			if da, db := a.ID[i]^target[i], b.ID[i]^target[i]; da != db {
				return int(da) - int(db)
			}
		}
		return 0
	})
	return list[:min(len(list), count)]
}

func (n *Node) serve() {
	buf := make([]byte, 2048)
	for {
		k, from, err := n.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		v, _ := bencode.Decode(buf[:k])
		q, _ := v.(map[string]any)
		args, _ := q["a"].(map[string]any)
		if args == nil {
			continue
		}
		answer := map[string]any{"t": q["t"], "y": "r"}
		said, code := n.answer(q["q"], args)
		if answer["r"] = said; code != 0 {
			answer = map[string]any{"t": q["t"], "y": "e", "e": []any{code, "refused"}}
		}
		n.mu.Lock()
		replace := n.replace
		n.mu.Unlock()
		if replace != nil {
			answer = replace(answer)
		}
		if answer != nil {
			_, _ = n.conn.WriteTo(bencode.Append(nil, answer), from)
		}
	}
}

// answer does what is asked; code is that of an error, 0 for none.
func (n *Node) answer(method any, args map[string]any) (said map[string]any, code int64) {
	said = map[string]any{"id": string(n.ID[:])}
	n.mu.Lock()
	defer n.mu.Unlock()
	switch method {
	case "ping":
	case "get", "find_node":
		text, _ := args["target"].(string)
		var target [20]byte
		copy(target[:], text)
		said["token"], said["nodes"] = n.token, ""
		for _, other := range nearest(n.others, target, known) {
			ip := other.Addr.Addr().As4()
			b := append(other.ID[:], ip[:]...)
			said["nodes"] = said["nodes"].(string) + string(binary.BigEndian.AppendUint16(slices.Clone(b), other.Addr.Port()))
		}
		for key, value := range n.items[target] {
			said[key] = value
		}
	case "put":
		key, _ := args["k"].(string)
		signature, _ := args["sig"].(string)
		seq, _ := args["seq"].(int64)
		v := bencode.Append(nil, args["v"])
		target := sha1.Sum([]byte(key))
		old, _ := n.items[target]["seq"].(int64)
		switch signed := fmt.Appendf(nil, "3:seqi%de1:v%s", seq, v); {
		case args["token"] != n.token, len(key) != ed25519.PublicKeySize:
			return nil, 203
		case len(v) > 1000:
			return nil, 205
		case !ed25519.Verify([]byte(key), signed, []byte(signature)):
			return nil, 206
		case old > seq:
			return nil, 302
		}
		n.items[target] = map[string]any{"k": key, "sig": signature, "seq": seq, "v": args["v"]}
	default:
		return nil, 204
	}
	return said, 0
}
