package discoveryserver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nodetun/nodetun/discovery/pkarr"
	"github.com/nodetun/nodetun/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is one that publishes.
type node struct {
	id     identity.NodeID
	signer *pkarr.Signer
}

func newNode(t testing.TB) node {
	t.Helper()
	key := identity.GenerateSecretKey()
	return node{key.NodeID(), pkarr.NewSigner(key, 0, nil)}
}

// at is a packet as of a time that says one address, with the port.
func (n node) at(t testing.TB, when time.Time, port uint16) pkarr.Packet {
	t.Helper()
	p, err := n.signer.Sign(when, identity.NodeAddr{ID: n.id, Direct: []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), port)}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// stores are all kinds of Store. open opens the same one each time it is called.
func stores(t *testing.T) map[string]func(t *testing.T) Store {
	inMemory, dir := NewMemory(), filepath.Join(t.TempDir(), "new", "store")
	return map[string]func(t *testing.T) Store{
		"memory": func(*testing.T) Store { return inMemory },
		"bolt": func(t *testing.T) Store {
			s, err := OpenBolt(dir)
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
	}
}

// TestStores is what every store must do.
func TestStores(t *testing.T) {
	for name, open := range stores(t) {
		t.Run(name, func(t *testing.T) { storeConforms(t, open) })
	}
}

func storeConforms(t *testing.T, open func(*testing.T) Store) {
	ctx, s, n := t.Context(), open(t), newNode(t)
	if _, err := s.Get(ctx, n.id); !errors.Is(err, ErrNotFound) {
		t.Errorf("a node that never was there: %v", err)
	}
	now := time.Now()
	old, late := n.at(t, now, 1), n.at(t, now.Add(time.Second), 2)
	has := func(want pkarr.Packet) {
		t.Helper()
		if p, err := s.Get(ctx, want.ID()); err != nil || string(p.Payload()) != string(want.Payload()) || p.ID() != want.ID() {
			t.Errorf("%v, %v", p, err)
		}
	}
	for _, step := range []struct {
		put  pkarr.Packet
		want error
		has  pkarr.Packet
	}{{old, nil, old}, {old, ErrSame, old}, {late, nil, late}, {old, ErrOlder, late}, {late, ErrSame, late}} {
		if err := s.Put(ctx, step.put); !errors.Is(err, step.want) {
			t.Errorf("put: %v, want %v", err, step.want)
		}
		has(step.has)
	}
	// Many at once: all are there, and of one node the newest.
	var nodes []node
	var tasks sync.WaitGroup
	for range 20 {
		nodes = append(nodes, newNode(t))
	}
	for _, n := range nodes {
		var packets []pkarr.Packet
		for port := range uint16(10) {
			packets = append(packets, n.at(t, now, port+1))
		}
		for _, p := range packets {
			tasks.Go(func() {
				if err := s.Put(ctx, p); err != nil && !errors.Is(err, ErrOlder) {
					t.Error(err)
				}
			})
		}
	}
	tasks.Wait()
	check := func() {
		t.Helper()
		for _, n := range nodes {
			if p, err := s.Get(ctx, n.id); err != nil || p.Addr().Direct[0].Port() != 10 {
				t.Errorf("%v, %v", p.Addr(), err)
			}
		}
	}
	check()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t)
	defer s.Close()
	check()
	has(late)
	if n, err := s.Evict(ctx, now.Add(-time.Hour)); n != 0 || err != nil {
		t.Errorf("evicted %d, %v", n, err)
	}
	if n, err := s.Evict(ctx, time.Now().Add(time.Hour)); n != 21 || err != nil {
		t.Errorf("evicted %d, %v", n, err)
	}
	if _, err := s.Get(ctx, n.id); !errors.Is(err, ErrNotFound) {
		t.Errorf("after that: %v", err)
	}
}

// The file is for one process, and is not the user's to damage unnoticed.
func TestOpenBoltRefuses(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, boltFile), []byte("not a database, but something else altogether"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenBolt(dir); err == nil {
		t.Error("a file of another kind was opened")
	}
	if _, err := OpenBolt(filepath.Join(dir, boltFile, "below")); err == nil {
		t.Error("a directory below a file")
	}
}

// More than fit into one step of an eviction.
func TestBoltEvictsInSteps(t *testing.T) {
	s, err := OpenBolt(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	n := newNode(t)
	payload := n.at(t, time.Now(), 1).Payload()
	var tasks sync.WaitGroup
	const count = evictStep + 100
	for i := range count {
		id := identity.NodeID{byte(i), byte(i >> 8), 1}
		p, err := pkarr.Restore(id, payload)
		if err != nil {
			t.Fatal(err)
		}
		tasks.Go(func() {
			if err := s.Put(context.Background(), p); err != nil {
				t.Error(err)
			}
		})
	}
	tasks.Wait()
	if n, err := s.Evict(t.Context(), time.Now().Add(time.Hour)); n != count || err != nil {
		t.Errorf("evicted %d, %v", n, err)
	}
}

func ExampleOpenBolt() {
	dir, err := os.MkdirTemp("", "discovery")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	store, err := OpenBolt(dir)
	if err != nil {
		fmt.Println(err)
		return
	}
	server := New(Config{Addr: "127.0.0.1:0", DNSAddr: "127.0.0.1:0", Store: store})
	defer server.Close()
	fmt.Println(server.Listen())
	// Output: <nil>
}
