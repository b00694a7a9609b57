package routing

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodetun/nodetun/identity"
)

var (
	pool16 = netip.MustParsePrefix("100.100.0.0/16")
	epoch  = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
)

// node makes the n-th of a row of different ids. The table does not care
// whether they are points of the curve.
func node(n int) identity.NodeID {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(n))
	return sha256.Sum256(b[:])
}

func mustAdd(t testing.TB, tab *Table, id identity.NodeID) Entry {
	t.Helper()
	e, err := tab.Add(id)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func mustAsk(t testing.TB, tab *Table, id identity.NodeID, now time.Time) Entry {
	t.Helper()
	e, err := tab.AddOnDemand(id, now)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// wantLookup checks both addresses of an entry, and the entry itself.
func wantLookup(t testing.TB, tab *Table, e Entry) {
	t.Helper()
	for _, a := range []netip.Addr{e.V6, e.V4} {
		if id, ok := tab.Lookup(a); a.IsValid() && (!ok || id != e.ID) {
			t.Fatalf("Lookup(%s) = %s, %v, want %s", a, id, ok, e.ID)
		}
	}
	if got, ok := tab.Entry(e.ID); !ok || got != e {
		t.Fatalf("Entry = %v, %v, want %v", got, ok, e)
	}
}

func TestOverlayV6(t *testing.T) {
	if got, want := Prefix6(), netip.MustParsePrefix("fd6e:6f64:6574::/48"); got != want {
		t.Errorf("prefix %s, want %s", got, want)
	}
	// printf 'nodetun-ipv6-v1' and 32 zero bytes through sha256sum
	sum := sha256.Sum256(append([]byte("nodetun-ipv6-v1"), make([]byte, 32)...))
	want := netip.AddrFrom16([16]byte(append([]byte{0xfd, 0x6e, 0x6f, 0x64, 0x65, 0x74}, sum[:10]...)))
	if got := OverlayV6(identity.NodeID{}); got != want || !Prefix6().Contains(got) {
		t.Errorf("address %s, want %s", got, want)
	}
}

func TestPreferredIPv4(t *testing.T) {
	for _, pool := range []string{"100.100.0.0/16", "10.0.0.0/8", "192.168.7.0/24", "192.168.7.8/29"} {
		p := netip.MustParsePrefix(pool)
		sum := sha256.Sum256(append([]byte("nodetun-ipv4-v1"), make([]byte, 32)...))
		usable := uint32(1)<<(32-p.Bits()) - 2
		base := p.Addr().As4()
		var want [4]byte
		binary.BigEndian.PutUint32(want[:], binary.BigEndian.Uint32(base[:])+1+binary.BigEndian.Uint32(sum[:4])%usable)
		if got := NewTable(identity.NodeID{}, p, nil).Self().V4; got != netip.AddrFrom4(want) {
			t.Errorf("%s: got %s, want %s", pool, got, netip.AddrFrom4(want))
		}
	}
}

func TestTableWithoutIPv4(t *testing.T) {
	tab := NewTable(node(0), netip.Prefix{}, map[identity.NodeID]netip.Addr{node(1): netip.MustParseAddr("100.100.0.9")})
	if e := mustAdd(t, tab, node(1)); e.V4.IsValid() || !e.V6.IsValid() {
		t.Errorf("entry %v", e)
	}
	if e := mustAsk(t, tab, node(2), epoch); e.V4.IsValid() {
		t.Errorf("on demand %v", e)
	}
	if len(tab.Saved()) != 0 {
		t.Errorf("saved %v", tab.Saved())
	}
}

func TestTableFillsASmallPool(t *testing.T) {
	pool := netip.MustParsePrefix("10.1.2.0/28") // 14 hosts
	tab := NewTable(node(0), pool, nil)
	seen := map[netip.Addr]bool{tab.Self().V4: true}
	for n := 1; n < 14; n++ {
		e := mustAdd(t, tab, node(n))
		wantLookup(t, tab, e)
		if !pool.Contains(e.V4) || seen[e.V4] || e.V4 == pool.Addr() || e.V4 == netip.MustParseAddr("10.1.2.15") {
			t.Fatalf("node %d got %s", n, e.V4)
		}
		seen[e.V4] = true
	}
	if e := mustAdd(t, tab, node(14)); e.V4.IsValid() {
		t.Errorf("a full pool gave %s", e.V4)
	}
	freed, _ := tab.Entry(node(5))
	tab.Remove(node(5))
	if _, ok := tab.Lookup(freed.V6); ok {
		t.Error("a removed node is still looked up")
	}
	if e := mustAdd(t, tab, node(15)); e.V4 != freed.V4 {
		t.Errorf("the freed address %s was not used: %v", freed.V4, e)
	}
}

func TestCollisionTakesTheNextFree(t *testing.T) {
	pool := netip.MustParsePrefix("10.1.2.0/24")
	first := node(1)
	var second identity.NodeID
	for n := 2; ; n++ {
		if second = node(n); hashV4(second)%254 == hashV4(first)%254 {
			break
		}
	}
	tab := NewTable(node(0), pool, nil)
	a, b := mustAdd(t, tab, first), mustAdd(t, tab, second)
	if next := a.V4.Next(); b.V4 != next && b.V4 != next.Next() && b.V4 != netip.MustParseAddr("10.1.2.1") {
		t.Errorf("%s collides with %s and got %s", second, a.V4, b.V4)
	}
}

func TestSavedAddressesAreHonoured(t *testing.T) {
	self, peer, other := node(0), node(1), node(2)
	prefOther := NewTable(other, pool16, nil).Self().V4
	saved := map[identity.NodeID]netip.Addr{
		self:    netip.MustParseAddr("100.100.7.7"),
		peer:    prefOther, // the place that other would like
		node(3): netip.MustParseAddr("10.0.0.1"),
		node(4): netip.MustParseAddr("100.100.0.0"),
		node(5): netip.MustParseAddr("100.100.255.255"),
		node(6): netip.MustParseAddr("fd00::1"),
		node(7): {},
	}
	tab := NewTable(self, pool16, saved)
	if got := tab.Self().V4; got != saved[self] {
		t.Errorf("own address %s, want %s", got, saved[self])
	}
	// other comes first and must leave the promised place alone.
	if e := mustAdd(t, tab, other); e.V4 == prefOther || !e.V4.IsValid() {
		t.Errorf("other got %v", e)
	}
	if e := mustAdd(t, tab, peer); e.V4 != prefOther {
		t.Errorf("peer got %s, want its saved %s", e.V4, prefOther)
	}
	for n := 3; n <= 7; n++ {
		if e := mustAdd(t, tab, node(n)); !pool16.Contains(e.V4) || e.V4 == saved[node(n)] {
			t.Errorf("node %d: bad saved address used: %v", n, e)
		}
	}
	again := NewTable(self, pool16, tab.Saved())
	for n := 7; n >= 1; n-- {
		want, _ := tab.Entry(node(n))
		if got := mustAdd(t, again, node(n)); got != want {
			t.Errorf("after a restart %v, want %v", got, want)
		}
	}
}

func TestSavedTwiceIsDeterministic(t *testing.T) {
	a := netip.MustParseAddr("100.100.1.1")
	saved := map[identity.NodeID]netip.Addr{node(1): a, node(2): a, node(3): a}
	winner := node(1)
	for _, id := range []identity.NodeID{node(2), node(3)} {
		if id.Compare(winner) < 0 {
			winner = id
		}
	}
	for range 20 {
		tab := NewTable(node(0), pool16, saved)
		for n := 1; n <= 3; n++ {
			if e := mustAdd(t, tab, node(n)); (e.V4 == a) != (e.ID == winner) {
				t.Fatalf("%s got %s", e.ID, e.V4)
			}
		}
	}
}

func TestConflictNamesBoth(t *testing.T) {
	same := func(identity.NodeID) netip.Addr { return OverlayV6(node(99)) }
	tab := newTable(node(0), pool16, nil, func(id identity.NodeID) netip.Addr {
		if id == node(1) || id == node(2) {
			return same(id)
		}
		return OverlayV6(id)
	})
	mustAdd(t, tab, node(1))
	_, err := tab.Add(node(2))
	var conflict *ConflictError
	if !errors.As(err, &conflict) || conflict.Existing != node(1) || conflict.Refused != node(2) {
		t.Fatalf("error %v", err)
	}
	for _, id := range []identity.NodeID{node(1), node(2)} {
		if !strings.Contains(err.Error(), id.String()) {
			t.Errorf("%q does not name %s", err, id)
		}
	}
	if _, err := tab.AddOnDemand(node(2), epoch); !errors.As(err, &conflict) {
		t.Errorf("on demand: %v", err)
	}
	// A node on demand gives way to a peer.
	tab.Remove(node(1))
	mustAsk(t, tab, node(1), epoch)
	wantLookup(t, tab, mustAdd(t, tab, node(2)))
	if _, ok := tab.Entry(node(1)); ok {
		t.Error("the node on demand is still there")
	}
}

func TestSelfIsNeverChanged(t *testing.T) {
	tab := NewTable(node(0), pool16, nil)
	self := tab.Self()
	if e := mustAdd(t, tab, node(0)); e != self {
		t.Errorf("Add(self) = %v", e)
	}
	if e := mustAsk(t, tab, node(0), epoch); e != self {
		t.Errorf("AddOnDemand(self) = %v", e)
	}
	tab.Remove(node(0))
	wantLookup(t, tab, self)
}

// S19: somebody has a web page ask for any number of names.
func TestS19OnDemandIsBounded(t *testing.T) {
	tab := NewTable(node(0), pool16, nil)
	peer := mustAdd(t, tab, node(1))
	used := mustAsk(t, tab, node(2), epoch)
	tab.Touch(node(2), epoch)
	slice := netip.MustParsePrefix("100.100.252.0/22")
	for n := 10; n < 10_010; n++ {
		e := mustAsk(t, tab, node(n), epoch.Add(time.Duration(n)*time.Millisecond))
		// 100.100.251.255 is the first of the last 1024 usable hosts.
		if !slice.Contains(e.V4) && e.V4 != netip.MustParseAddr("100.100.251.255") {
			t.Fatalf("on demand got %s, outside the slice", e.V4)
		}
		wantLookup(t, tab, e)
	}
	known := 0
	for n := 10; n < 10_010; n++ {
		if _, ok := tab.Entry(node(n)); ok {
			known++
		}
	}
	if known != maxOnDemand-1 {
		t.Errorf("%d names known, want %d and the one in use", known, maxOnDemand-1)
	}
	wantLookup(t, tab, peer)
	wantLookup(t, tab, used)
	if s := tab.Saved(); len(s) != 2 {
		t.Errorf("%d addresses would be saved, want self and peer", len(s))
	}
}

// S19: an hour without question or use.
func TestS19OnDemandExpires(t *testing.T) {
	tab := NewTable(node(0), pool16, nil)
	asked, used := mustAsk(t, tab, node(1), epoch), mustAsk(t, tab, node(2), epoch)
	tab.Touch(node(2), epoch.Add(30*time.Minute))
	tab.Touch(node(77), epoch)
	mustAsk(t, tab, node(78), epoch.Add(time.Hour))
	if _, ok := tab.Lookup(asked.V6); ok {
		t.Error("known after an hour")
	}
	wantLookup(t, tab, used)
	mustAsk(t, tab, node(3), epoch.Add(91*time.Minute))
	if _, ok := tab.Lookup(used.V4); ok {
		t.Error("used one known for ever")
	}
}

// S19: peers always displace, also in the slice of the others.
func TestS19PeersDisplace(t *testing.T) {
	pool := netip.MustParsePrefix("10.1.2.0/27") // 30 hosts, 7 on demand
	tab := NewTable(node(0), pool, nil)
	for n := 100; n < 110; n++ {
		mustAsk(t, tab, node(n), epoch.Add(time.Duration(n)*time.Second))
	}
	with4 := 0
	for n := 100; n < 110; n++ {
		e, ok := tab.Entry(node(n))
		if !ok {
			t.Fatalf("IPv6 of node %d is not served", n)
		}
		wantLookup(t, tab, e)
		if e.V4.IsValid() {
			with4++
		}
	}
	if with4 != 7 {
		t.Errorf("%d of them hold IPv4, want 7", with4)
	}
	for n := 1; n < 30; n++ {
		if e := mustAdd(t, tab, node(n)); !e.V4.IsValid() {
			t.Fatalf("peer %d got no IPv4", n)
		}
	}
	for n := range 30 {
		e, _ := tab.Entry(node(n))
		wantLookup(t, tab, e)
	}
	for n := 100; n < 110; n++ {
		if e, ok := tab.Entry(node(n)); !ok || e.V4.IsValid() {
			t.Errorf("node %d on demand: %v, %v", n, e, ok)
		}
	}
}

func TestOnDemandBecomesPeer(t *testing.T) {
	tab := NewTable(node(0), pool16, nil)
	before := mustAsk(t, tab, node(1), epoch)
	after := mustAdd(t, tab, node(1))
	wantLookup(t, tab, after)
	if _, ok := tab.Lookup(before.V4); ok && before.V4 != after.V4 {
		t.Error("the address on demand is still mapped")
	}
	mustAsk(t, tab, node(2), epoch.Add(2*time.Hour))
	wantLookup(t, tab, after)
	if again := mustAsk(t, tab, node(1), epoch); again != after {
		t.Errorf("asked again: %v", again)
	}
}

func TestThousandPeersConcurrently(t *testing.T) {
	tab := NewTable(node(0), pool16, nil)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for n := w * 250; n < (w+1)*250; n++ {
				e, err := tab.Add(node(n + 1))
				if err != nil {
					t.Error(err)
				}
				if id, ok := tab.Lookup(e.V6); !ok || id != e.ID {
					t.Errorf("node %d not found", n)
				}
				if _, err := tab.AddOnDemand(node(5000+n), epoch); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	seen := make(map[netip.Addr]bool)
	for id, a := range tab.Saved() {
		if seen[a] {
			t.Fatalf("%s given twice", a)
		}
		seen[a] = true
		e, _ := tab.Entry(id)
		wantLookup(t, tab, e)
	}
	if len(seen) != 1001 {
		t.Errorf("%d addresses", len(seen))
	}
}

func TestLookupDoesNotAllocate(t *testing.T) {
	tab := NewTable(node(0), pool16, nil)
	e := mustAdd(t, tab, node(1))
	stranger := netip.MustParseAddr("fd6e:6f64:6574::1")
	if n := testing.AllocsPerRun(1000, func() {
		tab.Lookup(e.V6)
		tab.Lookup(e.V4)
		tab.Lookup(stranger)
		tab.Lookup(netip.Addr{})
		tab.Entry(e.ID)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkLookup(b *testing.B) {
	tab := NewTable(node(0), pool16, nil)
	addrs := make([]netip.Addr, 1000)
	for n := range addrs {
		addrs[n] = mustAdd(b, tab, node(n+1)).V6
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, ok := tab.Lookup(addrs[i%len(addrs)]); !ok {
				b.Fatal("not found")
			}
		}
	})
}

func BenchmarkAddOnDemand(b *testing.B) {
	tab := NewTable(node(0), pool16, nil)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := tab.AddOnDemand(node(i+1), epoch); err != nil {
			b.Fatal(err)
		}
	}
}
