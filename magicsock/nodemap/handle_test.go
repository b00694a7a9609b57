package nodemap

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock/disco"
)

// world is one Map under test with helpers that keep the time.
type world struct {
	t   *testing.T
	m   *Map
	now time.Time
	tx  uint64
}

var (
	self, bob, eve = testID(1), testID(2), testID(3)
	bobUDP         = netip.MustParseAddrPort("198.51.100.2:41820")
	bobUDP2        = netip.MustParseAddrPort("198.51.100.2:41821")
)

func newWorld(t *testing.T, change func(*Config)) *world {
	cfg := Config{Self: self, NewTxID: txIDs(1)}
	if change != nil {
		change(&cfg)
	}
	return &world{t: t, m: New(cfg), now: epoch}
}

func paired(c *Config) { c.Peer = func(identity.NodeID) bool { return true } }
func open(c *Config)   { c.Open = true }

func (w *world) wait(d time.Duration) { w.now = w.now.Add(d) }

// pass lets d pass and returns what Tick wanted done, with its times.
func (w *world) pass(d time.Duration) (acts []Action, at []time.Time) {
	end := w.now.Add(d)
	for next := w.m.Next(); !next.IsZero() && !next.After(end); next = w.m.Next() {
		w.now = later(w.now, next)
		got, _ := w.m.Tick(w.now)
		for _, a := range got {
			acts, at = append(acts, a), append(at, w.now)
		}
		checkMap(w.t, w.m)
	}
	w.now = end
	return acts, at
}

func (w *world) newTx() (tx disco.TxID) {
	w.tx++
	tx[0], tx[11], tx[10], tx[9] = 99, byte(w.tx), byte(w.tx>>8), byte(w.tx>>16)
	return tx
}

func (w *world) add(id identity.NodeID, relay string, direct ...netip.AddrPort) {
	w.t.Helper()
	a := identity.NodeAddr{ID: id, Direct: direct}
	if relay != "" {
		a.Relay = testURL(w.t, relay)
	}
	if _, err := w.m.Add(w.now, a, SourceSaved); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) ping(id identity.NodeID, from netip.AddrPort, size int) []Action {
	return slices.Clone(w.m.HandlePing(w.now, id, UDPAddr(from), w.newTx(), size))
}

// pong answers every ping to addr among acts.
func (w *world) pong(acts []Action, addr netip.AddrPort) (out []Action) {
	for _, a := range slices.Clone(acts) {
		if a.Kind == SendPing && a.To.UDP == addr {
			out = append(out, slices.Clone(w.m.HandlePong(w.now, a.Node, a.To, &disco.Pong{TxID: a.TxID, Src: netip.MustParseAddrPort("192.0.2.1:7")}))...)
		}
	}
	checkMap(w.t, w.m)
	return out
}

func (w *world) route(id identity.NodeID) (Route, []Action) {
	mapped, ok := w.m.MappedOf(id)
	if !ok {
		w.t.Fatal("no entry")
	}
	r, acts := w.m.Route(w.now, mapped, 1200, 1, false)
	checkMap(w.t, w.m)
	return r, slices.Clone(acts)
}

// direct makes an established direct path to a node.
func (w *world) direct(id identity.NodeID, a netip.AddrPort) {
	w.t.Helper()
	_, acts := w.route(id)
	w.pong(acts, a)
	if r, _ := w.route(id); r.UDP != a || !r.Relay.IsZero() {
		w.t.Fatalf("no direct path: %+v", r)
	}
}

func kinds(acts []Action) (out []Kind) {
	for _, a := range acts {
		if a.Kind != PathChanged {
			out = append(out, a.Kind)
		}
	}
	return out
}

func pings(acts []Action) (out []netip.AddrPort) {
	for _, a := range acts {
		if a.Kind == SendPing && a.To.UDP.IsValid() {
			out = append(out, a.To.UDP)
		}
	}
	return out
}

func wantKinds(t *testing.T, what string, acts []Action, want ...Kind) {
	t.Helper()
	if got := kinds(acts); !slices.Equal(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

const relayA, relayB = "https://a.example/", "https://b.example/"

func TestPingUnknownNode(t *testing.T) {
	w := newWorld(t, nil)
	acts := w.ping(bob, bobUDP, 1200)
	wantKinds(t, "first ping", acts, SendPong, SendPing)
	if acts[0].To.UDP != bobUDP || acts[0].Src.UDP != bobUDP || acts[1].Size != paddedSize {
		t.Errorf("actions %+v", acts)
	}
	if mapped, ok := w.m.Received(w.now, UDPAddr(bobUDP), identity.NodeID{}, 100); !ok {
		t.Error("payload is refused after a ping")
	} else if id, _ := w.m.NodeByMapped(mapped); id != bob {
		t.Errorf("payload is of %v", id)
	}
}

func TestPingSameTransactionTwice(t *testing.T) {
	w := newWorld(t, nil)
	tx := w.newTx()
	w.m.HandlePing(w.now, bob, UDPAddr(bobUDP), tx, 124)
	wantKinds(t, "the same again", w.m.HandlePing(w.now, bob, UDPAddr(bobUDP), tx, 124))
	wantKinds(t, "another path", w.m.HandlePing(w.now, bob, UDPAddr(bobUDP2), tx, 124), SendPong, SendPing)
}

// A ping that is replayed from forged addresses must not draw more bytes than
// it has (S7, S12).
func TestSmallPingGetsSmallPingBack(t *testing.T) {
	w := newWorld(t, nil)
	acts := w.ping(bob, bobUDP, 124)
	wantKinds(t, "ping", acts, SendPong, SendPing)
	if acts[1].Size != 0 {
		t.Errorf("ping back of %d bytes", acts[1].Size)
	}
	acts = w.pong(acts, bobUDP)
	wantKinds(t, "pong to the small ping", acts, SendPing)
	if acts[0].Size != paddedSize {
		t.Errorf("then a ping of %d bytes", acts[0].Size)
	}
	w.pong(acts, bobUDP)
	if r, _ := w.route(bob); r.UDP != bobUDP {
		t.Errorf("route %+v", r)
	}
}

func TestPingOnSoundPathIsNotReturned(t *testing.T) {
	w := newWorld(t, nil)
	w.add(bob, "", bobUDP)
	w.direct(bob, bobUDP)
	wantKinds(t, "ping on the path in use", w.ping(bob, bobUDP, 124), SendPong)
	wantKinds(t, "ping from elsewhere", w.ping(bob, bobUDP2, 124), SendPong, SendPing)
	wantKinds(t, "and again", w.ping(bob, bobUDP2, 124), SendPong)
	w.wait(7 * time.Second)
	wantKinds(t, "trust is over", w.ping(bob, bobUDP, 124), SendPong, SendPing)
}

func TestPingByRelay(t *testing.T) {
	w := newWorld(t, nil)
	a, b := RelayAddr(testURL(t, relayA)), RelayAddr(testURL(t, relayB))
	acts := w.m.HandlePing(w.now, bob, a, w.newTx(), 124)
	wantKinds(t, "relay ping", acts, SendPong)
	if acts[0].To != a || acts[0].Src != a {
		t.Errorf("pong %+v", acts[0])
	}
	at := func(want Addr) {
		t.Helper()
		if r, _ := w.m.Remote(w.now, bob); r.RelayInfo.URL != want.Relay {
			t.Errorf("relay %v, want %v", r.RelayInfo.URL, want.Relay)
		}
	}
	at(a)
	// S8, S12: the ping may be an old one that this relay kept. Only a pong moves the node.
	acts = slices.Clone(w.m.HandlePing(w.now, bob, b, w.newTx(), 124))
	wantKinds(t, "from another relay", acts, SendPong, SendPing)
	at(a)
	wantKinds(t, "again at once", w.m.HandlePing(w.now, bob, b, w.newTx(), 124), SendPong)
	if acts[1].To != b {
		t.Errorf("asked %v", acts[1].To)
	}
	w.m.HandlePong(w.now, bob, b, &disco.Pong{TxID: w.newTx()})
	at(a)
	w.m.HandlePong(w.now, bob, b, &disco.Pong{TxID: acts[1].TxID})
	at(b)
}

// S9: pings whose source is forged do not have an address pinged for ever that never
// answered.
func TestForgedPingsAreGivenUp(t *testing.T) {
	w := newWorld(t, nil)
	w.add(bob, "", bobUDP)
	w.direct(bob, bobUDP)
	victim := numberedAddr(9)
	pings := 0
	count := func(acts []Action) {
		for _, a := range acts {
			if a.Kind == SendPing && a.To.UDP == victim {
				pings++
			}
		}
	}
	for range 300 {
		count(w.ping(bob, victim, 1200))
		acts, _ := w.pass(2 * time.Second)
		count(acts)
	}
	if pings > maxTries+1 {
		t.Errorf("%d pings to an address that never answered", pings)
	}
}

func TestPingFromSelfAndBadSources(t *testing.T) {
	w := newWorld(t, nil)
	own := netip.MustParseAddrPort("192.0.2.1:1")
	w.m.SetOwnAddrs(w.now, []netip.AddrPort{own}, nil)
	w.m.SetTunPrefixes(w.now, []netip.Prefix{netip.MustParsePrefix("100.100.0.0/16")})
	for name, acts := range map[string][]Action{
		"self":                   w.ping(self, bobUDP, 124),
		"no id":                  w.ping(identity.NodeID{}, bobUDP, 124),
		"no address":             w.m.HandlePing(w.now, bob, Addr{}, w.newTx(), 124),
		"own address":            w.ping(bob, own, 124),
		"through our own tunnel": w.ping(bob, netip.MustParseAddrPort("100.100.3.4:7"), 124),
	} {
		wantKinds(t, name, acts)
	}
	if len(w.m.list) != 0 {
		t.Error("an entry was made")
	}
}

func TestPongMustMatch(t *testing.T) {
	w := newWorld(t, nil)
	w.add(bob, "", bobUDP)
	w.add(eve, "", netip.MustParseAddrPort("203.0.113.3:3"))
	_, acts := w.route(bob)
	i := slices.IndexFunc(acts, func(a Action) bool { return a.Kind == SendPing })
	tx := acts[i].TxID
	for name, f := range map[string]func() []Action{
		"other transaction": func() []Action {
			return w.m.HandlePong(w.now, bob, UDPAddr(bobUDP), &disco.Pong{TxID: w.newTx()})
		},
		"other node":   func() []Action { return w.m.HandlePong(w.now, eve, UDPAddr(bobUDP), &disco.Pong{TxID: tx}) },
		"unknown node": func() []Action { return w.m.HandlePong(w.now, testID(7), UDPAddr(bobUDP), &disco.Pong{TxID: tx}) },
		"no pong":      func() []Action { return w.m.HandlePong(w.now, bob, UDPAddr(bobUDP), nil) },
	} {
		f()
		if r, _ := w.m.Remote(w.now, bob); r.Conn != ConnNone {
			t.Errorf("%s: taken", name)
		}
	}
	w.wait(pingTimeout + time.Millisecond)
	w.m.HandlePong(w.now, bob, UDPAddr(bobUDP), &disco.Pong{TxID: tx})
	if r, _ := w.m.Remote(w.now, bob); r.Conn != ConnNone {
		t.Error("too late, but taken")
	}
}

// A pong speaks for the pinged address, whichever address it came from; payload
// from that one is welcome too.
func TestPongFromAnotherAddress(t *testing.T) {
	w := newWorld(t, nil)
	w.add(bob, "", bobUDP)
	_, acts := w.route(bob)
	for _, a := range acts {
		if a.Kind == SendPing {
			w.m.HandlePong(w.now, bob, UDPAddr(bobUDP2), &disco.Pong{TxID: a.TxID})
		}
	}
	if r, _ := w.route(bob); r.UDP != bobUDP {
		t.Errorf("route %+v", r)
	}
	if _, ok := w.m.Received(w.now, UDPAddr(bobUDP2), identity.NodeID{}, 1); !ok {
		t.Error("payload from the answering address is refused")
	}
}

func TestRelayPongKeepsLatencyOnly(t *testing.T) {
	w := newWorld(t, nil)
	w.add(bob, relayA)
	_, acts := w.route(bob)
	wantKinds(t, "first packet", acts, SendPing, SendCallMeMaybe)
	ping := acts[slices.IndexFunc(acts, func(a Action) bool { return a.Kind == SendPing })]
	w.wait(40 * time.Millisecond)
	w.m.HandlePong(w.now, bob, ping.To, &disco.Pong{TxID: ping.TxID, Relay: ping.To.Relay})
	r, _ := w.m.Remote(w.now, bob)
	if r.Conn != ConnRelay || r.RTT != 40*time.Millisecond {
		t.Errorf("%v, rtt %v", r.Conn, r.RTT)
	}
}

func TestCallMeMaybe(t *testing.T) {
	url := testURL(t, relayA)
	w := newWorld(t, nil)
	w.m.SetOwnNAT(NAT{Easy: true})
	list := []netip.AddrPort{bobUDP, netip.MustParseAddrPort("[fe80::1]:5"), netip.MustParseAddrPort("127.0.0.1:5")}
	wantKinds(t, "unknown node", w.m.HandleCallMeMaybe(w.now, bob, url, list))
	w.add(bob, relayA)
	wantKinds(t, "by UDP", w.m.HandleCallMeMaybe(w.now, bob, identity.RelayURL{}, list))
	acts := w.m.HandleCallMeMaybe(w.now, bob, url, list)
	if got := pings(acts); !slices.Equal(got, []netip.AddrPort{bobUDP}) {
		t.Errorf("pings %v", got)
	}
	if acts[0].Kind != SendCallMeMaybe || acts[1].Size != paddedSize {
		t.Errorf("%v, then a %v of %d bytes", acts[0].Kind, acts[1].Kind, acts[1].Size)
	}
}

// The gap of 5 s between two pings on an address gives way to a call-me-maybe
// only once in 5 s (S9).
func TestCallMeMaybeCannotHurryPings(t *testing.T) {
	url := testURL(t, relayA)
	w := newWorld(t, nil)
	w.add(bob, relayA, bobUDP)
	_, acts := w.route(bob)
	if len(pings(acts)) != 1 {
		t.Fatalf("first packet: %v", pings(acts))
	}
	sent := 0
	for range 100 { // 10 s
		w.wait(100 * time.Millisecond)
		sent += len(pings(w.m.HandleCallMeMaybe(w.now, bob, url, []netip.AddrPort{bobUDP})))
	}
	if sent > 3 {
		t.Errorf("%d pings in 10 s", sent)
	}
}

// An address in use that a call-me-maybe does not name has to answer, but is not
// dropped before: behind a NAT the node itself does not know it.
func TestCallMeMaybeWithoutAddressInUse(t *testing.T) {
	w := newWorld(t, nil)
	w.add(bob, relayA, bobUDP)
	w.direct(bob, bobUDP)
	w.wait(2 * time.Second)
	acts := slices.Clone(w.m.HandleCallMeMaybe(w.now, bob, testURL(t, relayA), []netip.AddrPort{bobUDP2}))
	if got := pings(acts); !slices.Contains(got, bobUDP) || !slices.Contains(got, bobUDP2) {
		t.Fatalf("pings %v", got)
	}
	if r, _ := w.route(bob); r.UDP != bobUDP || !r.Relay.IsZero() {
		t.Errorf("route at once %+v", r)
	}
	w.wait(300 * time.Millisecond)
	w.m.Tick(w.now)
	if r, _ := w.route(bob); r.UDP != bobUDP || r.Relay.IsZero() {
		t.Errorf("without an answer: %+v, want mixed", r)
	}
	w.pong(acts, bobUDP2)
	if r, _ := w.route(bob); r.UDP != bobUDP2 || !r.Relay.IsZero() {
		t.Errorf("the new address answers: %+v", r)
	}
}

func TestAddErrors(t *testing.T) {
	w := newWorld(t, nil)
	if _, err := w.m.Add(w.now, identity.NodeAddr{ID: self, Direct: []netip.AddrPort{bobUDP}}, SourceApp); err != ErrSelf {
		t.Errorf("self: %v", err)
	}
	w.m.SetOwnAddrs(w.now, []netip.AddrPort{bobUDP}, nil)
	if _, err := w.m.Add(w.now, identity.NodeAddr{ID: bob, Direct: []netip.AddrPort{bobUDP}}, SourceApp); err != ErrNoAddresses {
		t.Errorf("own address only: %v", err)
	}
	w.add(bob, relayA)
	if _, err := w.m.Add(w.now, identity.NodeAddr{ID: bob}, SourceApp); err != nil {
		t.Errorf("a relay is known: %v", err)
	}
}

func TestMappedAddresses(t *testing.T) {
	w := newWorld(t, nil)
	a, b := w.m.Mapped(bob), w.m.Mapped(eve)
	if a.String() != "[fd15:70a:510b::1]:12345" || b.String() != "[fd15:70a:510b::2]:12345" {
		t.Errorf("mapped %v, %v", a, b)
	}
	if w.m.Mapped(bob) != a {
		t.Error("not fixed")
	}
	if id, ok := w.m.NodeByMapped(b); !ok || id != eve {
		t.Errorf("reverse %v", id)
	}
	w.m.Remove(bob)
	if _, ok := w.m.NodeByMapped(a); ok {
		t.Error("found after Remove")
	}
	if again := w.m.Mapped(bob); again == a {
		t.Error("an address is used twice")
	}
	for _, bad := range []string{"[fd15:70a:510b::2]:1", "[fd15:70a:510b:1::2]:12345", "[::2]:12345", "1.2.3.4:12345"} {
		if _, ok := w.m.NodeByMapped(netip.MustParseAddrPort(bad)); ok {
			t.Errorf("%s is taken", bad)
		}
	}
	if w.m.Mapped(self).IsValid() || w.m.Mapped(identity.NodeID{}).IsValid() {
		t.Error("a mapped address for ourselves")
	}
	if r, acts := w.m.Route(w.now, a, 1, 1, false); !r.IsZero() || acts != nil {
		t.Error("a route to a node that is gone")
	}
}

func TestClaims(t *testing.T) {
	w := newWorld(t, paired)
	w.add(bob, "", bobUDP)
	w.direct(bob, bobUDP)
	c := w.m.Claims(w.now)
	if len(c) != 1 || c[0].Addr.String() != "192.0.2.1:7" || c[0].From != bobUDP || !c[0].Paired {
		t.Errorf("claims %+v", c)
	}
	w.wait(2 * time.Minute)
	if len(w.m.Claims(w.now)) != 0 {
		t.Error("claims do not age")
	}
}
