package nodemap

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/nodetun/nodetun/identity"
)

// The first packet is preceded by a padded ping to every known address, and with
// a relay by a ping through it and a call-me-maybe, in that order.
func TestFirstContact(t *testing.T) {
	w := newWorld(t, nil)
	w.add(bob, relayA, bobUDP, bobUDP2)
	r, acts := w.route(bob)
	if r.UDP.IsValid() || r.Relay.IsZero() {
		t.Errorf("route %+v, want the relay alone", r)
	}
	wantKinds(t, "first packet", acts, SendPing, SendPing, SendPing, SendCallMeMaybe)
	if got := pings(acts); !slices.Equal(got, []netip.AddrPort{bobUDP, bobUDP2}) || acts[0].Size != paddedSize {
		t.Errorf("pings %v, size %d", got, acts[0].Size)
	}
	_, acts = w.route(bob)
	wantKinds(t, "second packet", acts)
}

// Until a padded ping was answered an address gets at most three times what came
// from it and ten packets in 5 s, and only without a relay (S7).
func TestGrantWithoutRelay(t *testing.T) {
	w := newWorld(t, nil)
	w.add(bob, "", bobUDP)
	send := func(batch, packets int) (sent int) {
		for range batch {
			r, _ := w.m.Route(w.now, w.m.Mapped(bob), 1200*packets, packets, true)
			switch {
			case !r.UDP.IsValid():
			case r.Limit > 0:
				sent += r.Limit
			default:
				sent += packets
			}
		}
		return sent
	}
	if got := send(100, 1); got != 10 {
		t.Errorf("%d packets, want 10", got)
	}
	w.wait(5 * time.Second)
	if got := send(3, 7); got != 10 {
		t.Errorf("%d packets in batches, want 10", got)
	}
	w.m.HandlePing(w.now, bob, UDPAddr(bobUDP), w.newTx(), 1200)
	if got := send(10, 1); got != 3 {
		t.Errorf("%d packets for one received, want 3", got)
	}
	w.add(bob, relayA)
	if r, _ := w.route(bob); r.UDP.IsValid() || r.Relay.IsZero() {
		t.Errorf("with a relay known: %+v", r)
	}
}

func TestGrantTakesTurns(t *testing.T) {
	w := newWorld(t, nil)
	w.add(bob, "", bobUDP, bobUDP2)
	seen := map[netip.AddrPort]bool{}
	for range 4 {
		r, _ := w.route(bob)
		seen[r.UDP] = true
		w.wait(6 * time.Second)
	}
	if !seen[bobUDP] || !seen[bobUDP2] {
		t.Errorf("tried %v", seen)
	}
}

func TestNoAddressAsksDiscovery(t *testing.T) {
	w := newWorld(t, nil)
	w.m.Mapped(bob)
	r, acts := w.route(bob)
	if !r.IsZero() {
		t.Errorf("route %+v", r)
	}
	wantKinds(t, "first packet", acts, Discover)
	_, acts = w.route(bob)
	wantKinds(t, "second packet", acts)
	w.pass(10 * time.Second)
	if i, _ := w.m.Remote(w.now, bob); !i.Unreachable || i.Cause != CauseNoAddress {
		t.Errorf("%v, cause %v", i.Unreachable, i.Cause)
	}
}

// Payload from the address in use renews no trust: without pongs it is left
// (S8).
func TestPayloadRenewsNoTrust(t *testing.T) {
	w := newWorld(t, nil)
	w.add(bob, relayA, bobUDP)
	w.direct(bob, bobUDP)
	for range 70 { // 7 s
		w.pass(100 * time.Millisecond)
		w.m.Received(w.now, UDPAddr(bobUDP), identity.NodeID{}, 1000)
		w.route(bob)
	}
	if r, _ := w.route(bob); r.UDP.IsValid() {
		t.Errorf("still on %v", r.UDP)
	}
}

// While payload is sent the address in use is pinged at least every 3 s (S8).
func TestPingsWhileSending(t *testing.T) {
	w := newWorld(t, nil)
	w.add(bob, "", bobUDP)
	w.direct(bob, bobUDP)
	last := w.now
	for range 300 { // 30 s, answered at once
		w.wait(100 * time.Millisecond)
		w.m.Received(w.now, UDPAddr(bobUDP), identity.NodeID{}, 1000)
		_, acts := w.route(bob)
		if len(pings(acts)) > 0 {
			if d := w.now.Sub(last); d > sendingPing {
				t.Errorf("ping after %v", d)
			}
			last = w.now
			w.pong(acts, bobUDP)
		}
	}
	if w.now.Sub(last) > sendingPing {
		t.Error("no pings")
	}
}

func TestHeartbeatOfIdleSession(t *testing.T) {
	w := newWorld(t, nil)
	w.add(bob, "", bobUDP)
	w.direct(bob, bobUDP)
	w.m.Received(w.now, UDPAddr(bobUDP), identity.NodeID{}, 10)
	start, count := w.now, 0
	for w.now.Sub(start) < 3*time.Minute {
		acts, _ := w.pass(100 * time.Millisecond)
		if len(pings(acts)) > 0 {
			count++
			if acts[0].Size != 0 {
				t.Error("a heartbeat is padded")
			}
			w.pong(acts, bobUDP)
			if d := w.now.Sub(start); d > sessionTime {
				t.Errorf("a heartbeat after %v", d)
			}
		}
	}
	if count < 8 || count > 9 {
		t.Errorf("%d heartbeats in 45 s", count)
	}
	if !w.m.Next().IsZero() {
		t.Error("a timer is set")
	}
}

// ip:port belongs to the node that answered there; another one cannot take it by
// a ping, nor by a pong within 30 s (S8).
func TestOwnership(t *testing.T) {
	w := newWorld(t, nil)
	w.add(bob, "", bobUDP)
	w.direct(bob, bobUDP)
	w.ping(eve, bobUDP, 1200)
	ownerIs := func(want identity.NodeID) {
		t.Helper()
		mapped, _ := w.m.Received(w.now, UDPAddr(bobUDP), identity.NodeID{}, 10)
		if id, _ := w.m.NodeByMapped(mapped); id != want {
			t.Errorf("owner is %v, want %v", id.Short(), want.Short())
		}
		checkMap(t, w.m)
	}
	ownerIs(bob)
	w.wait(5 * time.Second)
	acts := w.ping(eve, bobUDP, 1200)
	w.pong(acts, bobUDP)
	ownerIs(bob)
	if r, _ := w.m.Remote(w.now, eve); r.Addrs[0].Usable {
		t.Error("an address of another node is usable")
	}
	w.wait(31 * time.Second)
	acts = w.ping(eve, bobUDP, 1200)
	ownerIs(bob)
	w.pong(acts, bobUDP)
	ownerIs(eve)
	if r, _ := w.route(bob); r.UDP == bobUDP && r.Limit == 0 && w.m.byID[bob].choice.conn == ConnDirect {
		t.Error("the former owner still sends there")
	}
}

func TestOtherNodeAtTheAddress(t *testing.T) {
	w := newWorld(t, nil)
	w.add(eve, "", bobUDP)
	w.direct(eve, bobUDP)
	w.add(bob, "", bobUDP)
	w.route(bob)
	for range 100 {
		acts, _ := w.pass(100 * time.Millisecond)
		for _, a := range acts {
			if a.Node == eve {
				w.pong([]Action{a}, bobUDP)
			}
		}
	}
	r, _ := w.m.Remote(w.now, bob)
	if r.Cause != CauseOther || !r.Unreachable {
		t.Errorf("cause %v, %q", r.Cause, r.LastError)
	}
}

func TestNetworkChanged(t *testing.T) {
	w := newWorld(t, nil)
	w.add(bob, relayA, bobUDP, bobUDP2)
	w.direct(bob, bobUDP)
	w.wait(500 * time.Millisecond)
	acts := slices.Clone(w.m.NetworkChanged(w.now))
	if got := pings(acts); len(got) != 2 {
		t.Errorf("pings %v", got)
	}
	if r, _ := w.route(bob); r.UDP.IsValid() || r.Relay.IsZero() {
		t.Errorf("route %+v", r)
	}
	w.pong(acts, bobUDP)
	if r, _ := w.route(bob); r.UDP != bobUDP {
		t.Errorf("route after the pong %+v", r)
	}
	r, _ := w.m.Remote(w.now, bob)
	if r.SwitchReasons[ReasonNetwork] != 1 || r.Switches != 3 {
		t.Errorf("switches %v", r.SwitchReasons)
	}
}

// What was unanswered when the network changed is sent again when a pong comes, and
// only then: a node that had answered all gets nothing twice. That holds too when the outage
// was so long that the session counts as idle.
func TestNetworkChangedResends(t *testing.T) {
	for _, test := range []struct {
		unanswered bool
		outage     time.Duration
	}{{true, 200 * time.Millisecond}, {false, 200 * time.Millisecond}, {true, sessionTime + 5*time.Second}} {
		unanswered, outage := test.unanswered, test.outage
		w := newWorld(t, nil)
		w.add(bob, "", bobUDP)
		w.direct(bob, bobUDP)
		w.route(bob)
		if !unanswered {
			w.m.Received(w.now, UDPAddr(bobUDP), identity.NodeID{}, 100)
		}
		w.pass(outage)
		acts := slices.Clone(w.m.NetworkChanged(w.now))
		w.wait(20 * time.Millisecond)
		if got := slices.Contains(kinds(w.pong(acts, bobUDP)), Resend); got != unanswered {
			t.Errorf("unanswered %v, outage of %v: sent again %v", unanswered, outage, got)
		}
	}
}

func TestSendFailed(t *testing.T) {
	w := newWorld(t, nil)
	w.add(bob, relayA, bobUDP)
	w.direct(bob, bobUDP)
	acts := w.m.SendFailed(w.now, bob, UDPAddr(bobUDP))
	if !slices.Contains(kinds(acts), Resend) {
		t.Errorf("actions %v", kinds(acts))
	}
	if r, _ := w.route(bob); r.UDP.IsValid() || r.Relay.IsZero() {
		t.Errorf("route %+v", r)
	}
}

func TestOwnAddressIsTakenAway(t *testing.T) {
	w := newWorld(t, nil)
	w.add(bob, relayA, bobUDP)
	w.direct(bob, bobUDP)
	w.m.SetOwnAddrs(w.now, []netip.AddrPort{bobUDP}, nil)
	if r, _ := w.route(bob); r.UDP.IsValid() || r.Relay.IsZero() {
		t.Errorf("route %+v, want the relay, which stays known", r)
	}
}

func TestReceivedFromStrangeSources(t *testing.T) {
	w := newWorld(t, nil)
	if _, ok := w.m.Received(w.now, UDPAddr(bobUDP), identity.NodeID{}, 10); ok {
		t.Error("payload of an unknown address")
	}
	if _, ok := w.m.Received(w.now, Addr{}, bob, 10); ok {
		t.Error("payload from nowhere")
	}
	if _, ok := w.m.Received(w.now, RelayAddr(testURL(t, relayA)), self, 10); ok {
		t.Error("payload of ourselves")
	}
	mapped, ok := w.m.Received(w.now, RelayAddr(testURL(t, relayA)), bob, 10)
	if !ok {
		t.Fatal("payload by relay of an admitted node")
	}
	if r, _ := w.m.Route(w.now, mapped, 10, 1, false); r.Relay != testURL(t, relayA) {
		t.Errorf("answer goes to %+v", r)
	}
}

// established returns a Map with n nodes on direct paths and one of them.
func established(t testing.TB, n int) (m *Map, mapped, from netip.AddrPort, now time.Time) {
	m, now = New(Config{Self: self, NewTxID: txIDs(1)}), epoch
	w := &world{t: &testing.T{}, m: m, now: now}
	for i := range n {
		now = now.Add(4500 * time.Microsecond) // within the budgets of S9
		w.now = now
		id := testID(9)
		id[5], id[6] = byte(i), byte(i>>8)
		from = netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), 41820)
		if _, err := m.Add(now, identity.NodeAddr{ID: id, Direct: []netip.AddrPort{from}}, SourceApp); err != nil {
			t.Fatal(err)
		}
		mapped = m.Mapped(id)
		_, acts := m.Route(now, mapped, 1200, 1, true)
		w.pong(acts, from)
		if r, _ := m.Route(now, mapped, 1200, 1, false); r.UDP != from || m.byMapped(mapped).choice.conn != ConnDirect {
			t.Fatalf("route %+v", r)
		}
	}
	return m, mapped, from, now
}

func TestFastPathAllocatesNothing(t *testing.T) {
	m, mapped, from, now := established(t, 100)
	if n := testing.AllocsPerRun(1000, func() {
		m.Route(now, mapped, 64000, 44, false)
		m.Received(now, UDPAddr(from), identity.NodeID{}, 64000)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkRoute(b *testing.B) {
	m, mapped, _, now := established(b, 100)
	b.ReportAllocs()
	for b.Loop() {
		m.Route(now, mapped, 64000, 44, false)
	}
}

func BenchmarkReceived(b *testing.B) {
	m, _, from, now := established(b, 100)
	addr := UDPAddr(from)
	b.ReportAllocs()
	for b.Loop() {
		m.Received(now, addr, identity.NodeID{}, 64000)
	}
}

func BenchmarkReceivedTwoNodes(b *testing.B) {
	m, _, from, now := established(b, 100)
	addr := UDPAddr(from)
	other := UDPAddr(m.list[0].paths[0].addr)
	b.ReportAllocs()
	for b.Loop() {
		m.Received(now, addr, identity.NodeID{}, 64000)
		m.Received(now, other, identity.NodeID{}, 64000)
	}
}

func BenchmarkTickIdle1000(b *testing.B) {
	m, _, _, now := established(b, 1000)
	b.ReportAllocs()
	for b.Loop() {
		m.Tick(now)
	}
}
