package nodemap

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock/disco"
)

func numbered(i int) identity.NodeID {
	id := testID(8)
	id[1], id[2], id[3] = byte(i), byte(i>>8), 1
	return id
}

func numberedAddr(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 41820)
}

// The filter of S9: what a hostile address list may not make us ping.
func TestFilter(t *testing.T) {
	f := Filter{
		Own:  []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:41820"), netip.MustParseAddrPort("[2001:db8::1]:41820")},
		Host: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		TUN:  []netip.Prefix{netip.MustParsePrefix("100.100.0.0/16"), netip.MustParsePrefix("fd6e:6f64:6574::/48")},
	}
	for _, test := range []struct {
		addr       string
		named, udp bool // as named by a message, as the source of a packet
	}{
		{"198.51.100.2:41820", true, true},
		{"10.0.0.2:41820", true, true},
		{"[2001:db8::2]:41820", true, true},
		{"[fd00::2]:1", true, true},
		{"[::ffff:198.51.100.2]:41820", true, true},
		{"169.254.169.254:53", false, true},
		{"192.0.2.1:41821", true, true}, // another node on this host
		{"192.0.2.1:53", false, true},
		{"[2001:db8::1]:123", false, true},
		{"192.0.2.2:53", true, true},
		{"127.0.0.1:5", false, true},
		{"[::1]:5", false, true},
		{"[::ffff:127.0.0.1]:5", false, true},
		{"[fe80::1]:5", false, true},
		{"[fe80::1%eth0]:5", false, true},
		{"198.51.100.2:0", false, false},
		{"0.0.0.0:5", false, false},
		{"[::]:5", false, false},
		{"224.0.0.1:5", false, false},
		{"[ff02::1]:5", false, false},
		{"255.255.255.255:5", false, false},
		{"[::ffff:255.255.255.255]:5", false, false},
		{"192.0.2.1:41820", false, false},
		{"[::ffff:192.0.2.1]:41820", false, false},
		{"[2001:db8::1]:41820", false, false},
		{"100.100.7.7:41820", false, false},
		{"[::ffff:100.100.7.7]:41820", false, false},
		{"[fd6e:6f64:6574::7]:41820", false, false},
		{"[fd6e:6f64:6574::7%tun0]:41820", false, false},
	} {
		a := netip.MustParseAddrPort(test.addr)
		if got := f.Acceptable(a, SourceRelay); got != test.named {
			t.Errorf("%s named: %v", test.addr, got)
		}
		if got := f.Acceptable(a, SourceUDP); got != test.udp {
			t.Errorf("%s as a source: %v", test.addr, got)
		}
	}
	if f.Acceptable(netip.AddrPort{}, SourceUDP) {
		t.Error("the zero address")
	}
	// A host with nothing but link-local addresses talks with others like it.
	f.Host = []netip.Addr{netip.MustParseAddr("169.254.7.7")}
	if !f.Acceptable(netip.MustParseAddrPort("169.254.1.1:5"), SourceRelay) {
		t.Error("link-local although this host has nothing else")
	}
	f.Loopback = true
	if !f.Acceptable(netip.MustParseAddrPort("127.0.0.1:5"), SourceApp) {
		t.Error("loopback although a socket is bound to it")
	}
}

func TestSelect(t *testing.T) {
	ll := netip.MustParseAddrPort("169.254.1.1:5")
	if got := (Filter{}).Select([]netip.AddrPort{ll}, SourceApp); len(got) != 1 {
		t.Errorf("link-local alone: %v", got)
	}
	mapped := netip.MustParseAddrPort("[::ffff:198.51.100.2]:41820")
	if got := (Filter{}).Select([]netip.AddrPort{ll, mapped, bobUDP}, SourceApp); !slices.Equal(got, []netip.AddrPort{bobUDP}) {
		t.Errorf("select %v", got)
	}
	var many []netip.AddrPort
	for i := range 100 {
		many = append(many, numberedAddr(i))
	}
	if got := (Filter{}).Select(many, SourceRelay); len(got) != maxMessage {
		t.Errorf("%d addresses of one message", len(got))
	}
}

// An address that never answers is given up after 10 pings for 10 minutes,
// whatever call-me-maybes say (S9).
func TestGivenUpAfterTenTries(t *testing.T) {
	w := newWorld(t, nil)
	url := testURL(t, relayA)
	w.add(bob, relayA)
	sent := 0
	var last time.Time
	start := w.now
	for w.now.Sub(start) < 9*time.Minute {
		w.wait(time.Second)
		_, acts := w.route(bob)
		acts = append(acts, w.m.HandleCallMeMaybe(w.now, bob, url, []netip.AddrPort{bobUDP})...)
		for range pings(acts) {
			sent++
			last = w.now
		}
	}
	if sent != maxTries {
		t.Errorf("%d pings, the last after %v", sent, last.Sub(start))
	}
	w.wait(3 * time.Minute)
	if _, acts := w.route(bob); len(pings(acts)) != 1 {
		t.Error("not tried again after the pause")
	}
	w.m.NetworkChanged(w.now)
	if r, _ := w.m.Remote(w.now, bob); r.Addrs[0].Tries != 1 || r.Addrs[0].GivenUp {
		t.Errorf("after a network change: %+v", r.Addrs[0])
	}
}

// One hostile peer cannot make us send more than 32 pings a second to addresses
// that never answered, all together not more than 256 (S9); what is over waits.
func TestPingBudgets(t *testing.T) {
	w := newWorld(t, nil)
	w.m.SetOwnNAT(NAT{Easy: true}) // else they wait a moment
	url := testURL(t, relayA)
	for i := range 20 {
		w.add(numbered(i), relayA)
	}
	perNode, all := map[identity.NodeID]int{}, 0
	count := func(acts []Action) {
		for _, a := range acts {
			if a.Kind == SendPing && a.To.UDP.IsValid() {
				perNode[a.Node]++
				all++
			}
		}
	}
	for round := range 2 {
		for i := range 20 {
			var list []netip.AddrPort
			for j := range maxMessage {
				list = append(list, numberedAddr(i*200+round*maxMessage+j))
			}
			count(w.m.HandleCallMeMaybe(w.now, numbered(i), url, list))
		}
	}
	for id, n := range perNode {
		if n > nodePingRate {
			t.Errorf("%d pings to %v at once", n, id.Short())
		}
	}
	if all > mapPingRate {
		t.Errorf("%d pings at once", all)
	}
	before := all
	acts, _ := w.pass(time.Second)
	count(acts)
	if got := all - before; got > mapPingRate+1 || got < 200 {
		t.Errorf("%d pings in the next second", got)
	}
	acts, _ = w.pass(10 * time.Second)
	count(acts)
	if all != 20*64 {
		t.Errorf("%d pings in all, want every address once: %d", all, 20*64)
	}
}

func TestAddressesOfANodeAreBounded(t *testing.T) {
	w := newWorld(t, nil)
	url := testURL(t, relayA)
	w.add(bob, relayA, bobUDP)
	w.direct(bob, bobUDP)
	for i := range 50 {
		var list []netip.AddrPort
		for j := range 40 {
			list = append(list, numberedAddr(i*40+j))
		}
		w.m.HandleCallMeMaybe(w.now, bob, url, list)
		w.ping(bob, numberedAddr(10000+i), 124)
		w.pass(time.Second)
	}
	n := w.m.byID[bob]
	if len(n.paths) > maxPaths {
		t.Errorf("%d addresses", len(n.paths))
	}
	checkMap(t, w.m)
}

// With an open endpoint a stranger gets a pong and nothing else before its
// handshake is complete (S6).
func TestStrangerGetsPongOnly(t *testing.T) {
	w := newWorld(t, open)
	url := testURL(t, relayA)
	wantKinds(t, "ping", w.ping(bob, bobUDP, 1200), SendPong)
	wantKinds(t, "relay ping", w.m.HandlePing(w.now, bob, RelayAddr(url), w.newTx(), 124), SendPong)
	wantKinds(t, "call-me-maybe", w.m.HandleCallMeMaybe(w.now, bob, url, []netip.AddrPort{bobUDP2}))
	w.m.Received(w.now, UDPAddr(bobUDP), identity.NodeID{}, 1200)
	_, acts := w.route(bob)
	wantKinds(t, "our handshake", acts)
	acts, _ = w.pass(20 * time.Second)
	wantKinds(t, "time", acts)
	acts = slices.Clone(w.m.Established(w.now, bob))
	wantKinds(t, "established", acts, SendPing, SendPing, SendCallMeMaybe)
	w.pong(acts, bobUDP)
	if r, _ := w.route(bob); r.UDP != bobUDP {
		t.Errorf("route %+v", r)
	}
	// A node that we dial ourselves is no stranger.
	w.add(eve, "", numberedAddr(1))
	_, acts = w.route(eve)
	wantKinds(t, "dialled", acts, SendPing)
}

// A denied node gets a pong and nothing else, whatever it was before (S6, S11).
func TestDeniedGetsPongOnly(t *testing.T) {
	denied := false
	w := newWorld(t, func(c *Config) {
		c.Peer = func(id identity.NodeID) bool { return id == bob && !denied }
		c.Denied = func(id identity.NodeID) bool { return id == bob && denied }
	})
	url := testURL(t, relayA)
	w.add(bob, relayA, bobUDP)
	_, acts := w.route(bob)
	w.pong(acts, bobUDP)
	if r, _ := w.route(bob); r.UDP != bobUDP {
		t.Fatalf("route %+v", r)
	}
	denied = true
	w.pass(20 * time.Second) // what was on its way
	wantKinds(t, "ping", w.ping(bob, bobUDP2, 1200), SendPong)
	wantKinds(t, "relay ping", w.m.HandlePing(w.now, bob, RelayAddr(url), w.newTx(), 124), SendPong)
	wantKinds(t, "call-me-maybe", w.m.HandleCallMeMaybe(w.now, bob, url, []netip.AddrPort{numberedAddr(7)}))
	w.m.Received(w.now, UDPAddr(bobUDP2), identity.NodeID{}, 1200)
	acts, _ = w.pass(time.Minute)
	wantKinds(t, "time", acts)
	if claims := w.m.Claims(w.now); slices.ContainsFunc(claims, func(c Claim) bool { return c.Paired }) {
		t.Errorf("its word of our address counts: %+v", claims)
	}
	denied = false
	_, acts = w.route(bob)
	if !slices.ContainsFunc(acts, func(a Action) bool { return a.Kind == SendPing }) {
		t.Errorf("allowed again, nothing is asked: %+v", acts)
	}
}

// A flood of strangers keeps at most 256 entries, pushes out no one else, and is
// forgotten after 30 s (S6).
func TestStrangerFlood(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Open = true
		c.Peer = func(id identity.NodeID) bool { return id == bob }
	})
	w.ping(bob, bobUDP, 1200)
	w.add(eve, "", numberedAddr(60000))
	for i := range 2000 {
		w.ping(numbered(i), numberedAddr(i), 124)
		w.wait(time.Millisecond)
	}
	if n := len(w.m.list); n != maxStrangers+2 {
		t.Errorf("%d entries", n)
	}
	if w.m.byID[bob] == nil || w.m.byID[eve] == nil {
		t.Error("a stranger pushed out a known node")
	}
	checkMap(t, w.m)
	w.pass(40 * time.Second)
	if n := len(w.m.list); n != 2 {
		t.Errorf("%d entries after 40 s", n)
	}
}

// Of idle nodes that are no peers 30 are kept; peers are never pruned.
func TestPruning(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Peer = func(id identity.NodeID) bool { return id[1]%2 == 0 }
	})
	for i := range 100 {
		w.add(numbered(i), "", numberedAddr(i))
		w.wait(time.Millisecond)
	}
	w.pass(10 * time.Second)
	if n := len(w.m.list); n != 50+maxIdleNodes {
		t.Errorf("%d nodes", n)
	}
	if w.m.byID[numbered(99)] == nil || w.m.byID[numbered(1)] != nil {
		t.Error("not the oldest ones went")
	}
	w.pass(time.Minute)
	if !w.m.Next().IsZero() {
		t.Errorf("pruning goes on: %v", w.m.Next().Sub(w.now))
	}
}

func TestPingAtStart(t *testing.T) {
	w := newWorld(t, paired)
	w.add(bob, relayA, bobUDP, bobUDP2)
	acts := w.m.Ping(w.now, bob)
	if got := pings(acts); len(got) != 2 {
		t.Errorf("pings %v", got)
	}
	w.pass(time.Minute)
	if r, _ := w.m.Remote(w.now, bob); r.Unreachable || r.LastError != "" {
		t.Errorf("a peer that is off is no error: %q", r.LastError)
	}
}

func TestRemoteInfo(t *testing.T) {
	w := newWorld(t, paired)
	w.add(bob, relayA, bobUDP, bobUDP2)
	_, acts := w.route(bob)
	w.wait(12 * time.Millisecond)
	w.pong(acts, bobUDP)
	r, ok := w.m.Remote(w.now, bob)
	if !ok || r.Conn != ConnDirect || r.UDP != bobUDP || r.RTT != 12*time.Millisecond {
		t.Fatalf("remote %+v", r)
	}
	a := r.Addrs[0]
	if a.Addr != bobUDP || !a.Usable || a.Owner != bob || a.ControlKind != "pong←" || !slices.Equal(a.Sources, []Source{SourceSaved, SourceUDP}) || !a.LastPong.Equal(w.now) {
		t.Errorf("address %+v", a)
	}
	if b := r.Addrs[1]; b.Usable || b.Tries != 1 || b.LastPing.IsZero() {
		t.Errorf("other address %+v", b)
	}
	if !r.LastHeard.Equal(w.now) || r.LastSent.IsZero() || !r.Active || !r.WantSince.IsZero() {
		t.Errorf("times %+v", r)
	}
	if _, ok := w.m.Remote(w.now, eve); ok {
		t.Error("an unknown node")
	}
	w.add(eve, relayA)
	if all := w.m.Remotes(w.now); len(all) != 2 || all[0].ID != bob {
		t.Errorf("remotes %v", len(all))
	}
}

// A node that was heard and falls silent is told from one that never answered.
func TestSilentNode(t *testing.T) {
	w := newWorld(t, paired)
	w.add(bob, "", bobUDP)
	w.direct(bob, bobUDP)
	for range 100 {
		w.pass(100 * time.Millisecond)
		w.route(bob)
	}
	w.pass(time.Second)
	r, _ := w.m.Remote(w.now, bob)
	if !r.Unreachable || r.Cause != CauseSilent || r.LastError != "no answer for 11 s from 198.51.100.2:41820" {
		t.Errorf("cause %v, %q", r.Cause, r.LastError)
	}
	// S12: what may have been kept since brings nobody back to life, but is asked about.
	acts := w.ping(bob, bobUDP, 1200)
	if r, _ := w.m.Remote(w.now, bob); !r.Unreachable {
		t.Error("a ping makes the node answer")
	}
	w.pong(acts, bobUDP)
	if r, _ := w.m.Remote(w.now, bob); r.Unreachable || r.LastError != "" {
		t.Errorf("it answered, yet %q", r.LastError)
	}
}

// S12: neither old pings, by any way, nor an old call-me-maybe keep a dead node alive.
func TestReplaysKeepNobodyAlive(t *testing.T) {
	w := newWorld(t, paired)
	w.add(bob, relayA, bobUDP)
	w.direct(bob, bobUDP)
	asked := 0
	for i := range 300 {
		w.pass(100 * time.Millisecond)
		w.route(bob)
		var acts []Action
		switch i % 15 {
		case 0:
			acts = w.ping(bob, bobUDP, 1200)
		case 5:
			acts = w.m.HandlePing(w.now, bob, RelayAddr(testURL(t, relayA)), disco.TxID{byte(i)}, 100)
		case 10:
			acts = w.m.HandleCallMeMaybe(w.now, bob, testURL(t, relayA), []netip.AddrPort{bobUDP})
		}
		for _, a := range acts {
			if a.Kind == SendPing {
				asked++
			}
		}
	}
	if r, _ := w.m.Remote(w.now, bob); !r.Unreachable {
		t.Error("a node that has been dead for 30 s counts as one that answers")
	}
	if asked == 0 || asked > 60 {
		t.Errorf("asked %d times", asked)
	}
}

func TestTexts(t *testing.T) {
	url := testURL(t, relayA)
	for c, want := range map[ConnType]string{
		ConnNone: "none", ConnDirect: "direct(198.51.100.2:41820)", ConnRelay: "relay(https://a.example./)",
		ConnMixed: "mixed(udp: 198.51.100.2:41820, relay: https://a.example./)",
	} {
		if got := PathText(c, Route{UDP: bobUDP, Relay: url}); got != want {
			t.Errorf("%v: %s", c, got)
		}
	}
	if s := UDPAddr(bobUDP).String() + " " + RelayAddr(url).String() + " " + (Addr{}).String(); s != "198.51.100.2:41820 https://a.example./ none" {
		t.Error(s)
	}
	for k := SendPing; k <= Lengthened+1; k++ {
		if (k.String() == "unknown") != (k > Lengthened) {
			t.Errorf("kind %d: %v", k, k)
		}
	}
	var tx disco.TxID
	if New(Config{}).cfg.NewTxID() == tx {
		t.Error("no randomness")
	}
}
