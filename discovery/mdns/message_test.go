package mdns

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/nodetun/nodetun/discovery"
	"github.com/nodetun/nodetun/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testID(t testing.TB) identity.NodeID {
	t.Helper()
	id, err := identity.ParseNodeID("df7wwi7bnsctfrvlza4pvtk6u6e34ddwwkjagnadtp5iwpjwrvqq")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func addrs(list ...string) (all []netip.AddrPort) {
	for _, text := range list {
		all = append(all, netip.MustParseAddrPort(text))
	}
	return all
}

// The question of iroh-net 0.28.1, byte for byte.
func TestQuery(t *testing.T) {
	const want = "000000000001000000000000055f69726f68056c6f63616c05737761726d045f756470056c6f63616c00000c0001"
	if got := hex.EncodeToString(query()); got != want {
		t.Errorf("%s", got)
	}
	if m, err := parse(query()); err != nil || !m.asks || !m.asked.IsZero() {
		t.Errorf("%+v, %v", m, err)
	}
	if m, err := parse(queryFor(testID(t))); err != nil || m.asks || m.asked != testID(t) {
		t.Errorf("%+v, %v", m, err)
	}
}

// What is announced has the form of iroh-net's, and is understood.
func TestAnnouncement(t *testing.T) {
	id := testID(t)
	addr := identity.NodeAddr{ID: id, Direct: addrs("192.0.2.7:4433", "[2001:db8::7]:4434", "10.0.0.1:4433")}
	b := announcement(addr)
	if len(b) > maxMessage || hex.EncodeToString(b[:12]) != "000084000000000200000003" {
		t.Errorf("%d bytes, %x", len(b), b[:12])
	}
	var m dns.Msg
	if err := m.Unpack(b); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, rr := range append(m.Answer, m.Extra...) {
		got = append(got, strings.Join(strings.Fields(rr.String()), " "))
	}
	want := []string{
		"ID._iroh.local.swarm._udp.local. 0 IN SRV 0 0 4433 ID-4433.local.", "ID._iroh.local.swarm._udp.local. 0 IN SRV 0 0 4434 ID-4434.local.",
		"ID-4433.local. 0 IN A 192.0.2.7", "ID-4433.local. 0 IN A 10.0.0.1", "ID-4434.local. 0 IN AAAA 2001:db8::7",
	}
	for i := range want {
		want[i] = strings.ReplaceAll(want[i], "ID", id.String())
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	back, err := parse(b)
	if err != nil || back.addr.ID != id || !slices.Equal(back.addr.Direct, addrs("192.0.2.7:4433", "10.0.0.1:4433", "[2001:db8::7]:4434")) {
		t.Errorf("%+v, %v", back, err)
	}
	if b := announcement(identity.NodeAddr{ID: id}); b != nil {
		t.Errorf("a node that is nowhere says %x", b)
	}
	var many []netip.AddrPort
	for i := range 100 {
		many = append(many, netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(i)}), uint16(1000+i)))
	}
	if b := announcement(identity.NodeAddr{ID: id, Direct: many}); len(b) > maxMessage || b == nil {
		t.Errorf("%d bytes", len(b))
	}
	left, err := parse(farewell(id))
	if err != nil || left.left != id || !left.addr.ID.IsZero() {
		t.Errorf("%+v, %v", left, err)
	}
}

// S27: of one node, its own addresses, and not too many.
func TestParseTakesLittle(t *testing.T) {
	id := testID(t)
	other := identity.GenerateSecretKey().NodeID()
	srv := func(id identity.NodeID, port int) string {
		return fmt.Sprintf("%s 0 IN SRV 0 0 %d %s-%d.local.", instance(id), port, id, port)
	}
	a := func(id identity.NodeID, port int, ip string) string {
		return fmt.Sprintf("%s-%d.local. 0 IN A %s", id, port, ip)
	}
	var many []string
	for i := range 40 {
		many = append(many, a(id, 7, fmt.Sprintf("192.0.2.%d", i)))
	}
	for _, tc := range []struct {
		name          string
		answer, extra []string
		want          int // addresses of id
	}{
		{"one", []string{srv(id, 7)}, []string{a(id, 7, "192.0.2.1")}, 1},
		{"twice", []string{srv(id, 7)}, []string{a(id, 7, "192.0.2.1"), a(id, 7, "192.0.2.1")}, 1},
		{"too many", []string{srv(id, 7)}, many, discovery.MaxDirect},
		{"of another target", []string{srv(id, 7)}, []string{a(id, 8, "192.0.2.1")}, 0},
		{"port 0", []string{srv(id, 0)}, []string{a(id, 0, "192.0.2.1")}, 0},
		{"two nodes: the first", []string{srv(id, 7), srv(other, 7)}, []string{a(id, 7, "192.0.2.1"), a(other, 7, "192.0.2.2")}, 1},
		{"of another service", []string{fmt.Sprintf("%s._http._tcp.local. 0 IN SRV 0 0 80 x.local.", id)}, []string{"x.local. 0 IN A 192.0.2.1"}, 0},
	} {
		m := dns.Msg{MsgHdr: dns.MsgHdr{Response: true}}
		for _, list := range []struct {
			texts []string
			to    *[]dns.RR
		}{{tc.answer, &m.Answer}, {tc.extra, &m.Extra}} {
			for _, text := range list.texts {
				rr, err := dns.NewRR(text)
				if err != nil {
					t.Fatal(err)
				}
				*list.to = append(*list.to, rr)
			}
		}
		got, err := parse(packed(&m))
		if len(got.addr.Direct) != tc.want || (err == nil) != (tc.want > 0) || tc.want > 0 && got.addr.ID != id {
			t.Errorf("%s: %+v, %v", tc.name, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	id := testID(f)
	f.Add(query())
	f.Add(queryFor(id))
	f.Add(farewell(id))
	f.Add(announcement(identity.NodeAddr{ID: id, Direct: addrs("192.0.2.7:4433", "[2001:db8::7]:4434")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parse(b)
		if err != nil {
			return
		}
		if len(m.addr.Direct) > discovery.MaxDirect || !m.asks && m.asked.IsZero() && m.addr.ID.IsZero() && m.left.IsZero() {
			t.Errorf("%+v", m)
		}
		if !m.addr.ID.IsZero() {
			if again, err := parse(announcement(m.addr)); err != nil || again.addr.ID != m.addr.ID {
				t.Errorf("%+v, %v", again, err)
			}
		}
	})
}
