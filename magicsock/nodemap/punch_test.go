package nodemap

import (
	"net/netip"
	"testing"
	"time"
)

// count returns how many actions of a kind the node saw.
func (a *simNode) count(k Kind) (n int) {
	for _, act := range a.log {
		if act.Kind == k {
			n++
		}
	}
	return n
}

// hardPair returns a node behind a hard NAT and one behind an easy one that lets
// in nothing from it, as with a NAT that filters by ip:port.
func hardPair(t *testing.T) (s *sim, hard, easy *simNode) {
	s, hard, easy = pair(t, true)
	s.drop = func(_, _ netip.AddrPort, _ int) bool { return true }
	hard.m.SetOwnNAT(NAT{Hard: true})
	hard.m.SetPeerNAT(easy.id, NAT{Public: []netip.AddrPort{easy.local}})
	easy.m.SetPeerNAT(hard.id, NAT{Hard: true, Public: []netip.AddrPort{netip.AddrPortFrom(hard.local.Addr(), 999)}})
	return s, hard, easy
}

func TestPunchOnceAMinute(t *testing.T) {
	s, hard, easy := hardPair(t)
	hard.stream(easy, 100*time.Millisecond, 150*time.Second)
	s.run(time.Second)
	if hard.count(PunchSockets) != 0 {
		t.Error("an attempt before simpler means had their time")
	}
	s.run(19 * time.Second)
	if a, b := hard.count(PunchSockets), easy.count(PunchSpray); a != 1 || b != 1 {
		t.Errorf("%d attempts with sockets, %d with ports, want 1 each", a, b)
	}
	for _, act := range easy.log {
		if act.Kind == PunchSpray && (act.To.UDP.Addr() != hard.local.Addr() || act.Size != 256) {
			t.Errorf("spray of %d to %v", act.Size, act.To)
		}
	}
	s.run(130 * time.Second)
	if a, b := hard.count(PunchSockets), easy.count(PunchSpray); a != 3 || b != 3 {
		t.Errorf("%d and %d attempts in 150 s, want 3", a, b)
	}
}

func TestPunchNotWhen(t *testing.T) {
	tests := map[string]func(hard, easy *simNode){
		"gentle": func(hard, easy *simNode) { hard.m.cfg.Punch, easy.m.cfg.Punch = PunchGentle, PunchGentle },
		"off":    func(hard, easy *simNode) { hard.m.cfg.Punch, easy.m.cfg.Punch = PunchOff, PunchOff },
		"both hard": func(hard, easy *simNode) {
			easy.m.SetOwnNAT(NAT{Hard: true})
			hard.m.SetPeerNAT(easy.id, NAT{Hard: true, Public: []netip.AddrPort{easy.local}})
		},
		"neither hard": func(hard, easy *simNode) { hard.m.SetOwnNAT(NAT{}); easy.m.SetPeerNAT(hard.id, NAT{}) },
		"not paired": func(hard, easy *simNode) {
			hard.m.byID[easy.id].paired, easy.m.byID[hard.id].paired = false, false
		},
		// An attack: a node has us ping 256 ports of somebody else.
		"address not its own": func(hard, easy *simNode) {
			victim := []netip.AddrPort{netip.MustParseAddrPort("203.0.113.99:80")}
			easy.m.SetPeerNAT(hard.id, NAT{Hard: true, Public: victim})
			hard.m.SetPeerNAT(easy.id, NAT{Public: victim})
		},
	}
	for name, set := range tests {
		t.Run(name, func(t *testing.T) {
			s, hard, easy := hardPair(t)
			hard.m.cfg.Peer, easy.m.cfg.Peer = nil, nil
			set(hard, easy)
			hard.stream(easy, 100*time.Millisecond, 20*time.Second)
			s.run(20 * time.Second)
			if a, b := hard.count(PunchSockets), easy.count(PunchSpray); a+b != 0 {
				t.Errorf("%d attempts with sockets, %d with ports", a, b)
			}
			if calls := hard.count(SendCallMeMaybe); name == "off" && calls != 0 {
				t.Errorf("%d call-me-maybes sent", calls)
			}
		})
	}
}

func TestPunchPing(t *testing.T) {
	_, hard, easy := hardPair(t)
	to := netip.MustParseAddrPort("203.0.113.7:1234")
	first := easy.m.PunchPing(hard.id, to)[0] // the slice is reused
	second := easy.m.PunchPing(hard.id, to)
	if len(second) != 1 || first.Kind != SendPing || first.To.UDP != to || first.TxID == second[0].TxID {
		t.Errorf("actions %+v, %+v", first, second)
	}
	if acts := easy.m.PunchPing(testID(99), to); acts != nil {
		t.Error("a ping to an unknown node")
	}
	if acts := easy.m.PunchPing(hard.id, netip.MustParseAddrPort("224.0.0.1:5")); acts != nil {
		t.Error("a ping to a multicast address")
	}
	if n := len(easy.m.byID[hard.id].paths); n != 1 {
		t.Errorf("%d paths", n)
	}
}

// The attempt succeeds: a ping from a port that nobody named is answered and the
// path is direct.
func TestPunchThroughUnknownPort(t *testing.T) {
	s, hard, easy := hardPair(t)
	lucky := netip.AddrPortFrom(hard.local.Addr(), 50123)
	hard.aliases = []netip.AddrPort{lucky}
	hard.stream(easy, 100*time.Millisecond, 20*time.Second)
	s.run(8 * time.Second)
	wantConn(t, hard, easy, ConnRelay)
	s.drop = func(from, to netip.AddrPort, _ int) bool { return from == hard.local || to == hard.local }
	hard.source = lucky // from now on it sends from the socket that got through
	hard.do(hard.m.PunchPing(easy.id, easy.local))
	s.run(3 * time.Second)
	hard.source = lucky
	wantConn(t, easy, hard, ConnDirect)
}

// A node whose NAT lets in any port of an address that was sent to, and one whose
// NAT shows each destination another port: direct at once, whoever begins.
func TestScenarioRestrictedAndHard(t *testing.T) {
	for _, hardBegins := range []bool{false, true} {
		s := newSim(t)
		s.relayUp = true
		a, hard := s.node(1, addrA), s.node(2, addrB)
		outside := netip.AddrPortFrom(hard.local.Addr(), 61234) // as a sees it
		hard.m.SetOwnNAT(NAT{Hard: true})
		a.m.SetOwnNAT(NAT{Easy: true})
		opened := false // a's NAT, for the address of the other
		s.drop = func(from, to netip.AddrPort, _ int) bool {
			if from == a.local {
				opened = true
				return to != outside // its mapping for a is only there for what a answers
			}
			return !opened
		}
		hard.source, hard.fixed, hard.aliases = outside, outside, []netip.AddrPort{outside}
		first, second := a, hard
		if hardBegins {
			first, second = hard, a
		}
		first.introduce(second, true)
		first.stream(second, 100*time.Millisecond, 3*time.Second)
		s.run(time.Second)
		if c := first.conn(second); c != ConnDirect {
			t.Errorf("hard begins %v: path is %v after a second", hardBegins, c)
		}
	}
}

// Behind a hard NAT our pings leave after those of the other side, also when its
// answer to our call-me-maybe crossed one of its own: a ping that comes before its
// NAT is open makes a mapping for nothing, and the next is 5 s away.
func TestHardSidePingsSecond(t *testing.T) {
	for _, test := range []struct {
		name       string
		nat        NAT
		first, all int // pings at once and in the end
	}{
		{"hard", NAT{Hard: true}, 0, 1},
		{"not known", NAT{}, 0, 1},
		{"easy", NAT{Easy: true}, 1, 1},
	} {
		s := newSim(t)
		s.relayUp = true
		a, b := s.node(1, addrA), s.node(2, addrB)
		b.introduce(a, true)
		b.m.SetOwnNAT(test.nat)
		a.nat = true // and answers nothing
		named := []netip.AddrPort{a.local}
		for range 2 {
			b.do(b.m.HandleCallMeMaybe(s.now, a.id, s.relay, named))
		}
		b.route(a.id, packet{from: b, size: 1200, payload: 1}) // looks for a path, too
		direct := func() (n int) {
			for _, act := range b.log {
				if act.Kind == SendPing && act.To == UDPAddr(a.local) {
					n++
				}
			}
			return n
		}
		if n := direct(); n != test.first {
			t.Errorf("%s: %d pings at once, want %d", test.name, n, test.first)
		}
		s.run(callMeWait)
		if n := direct(); n != test.all {
			t.Errorf("%s: %d pings in the end, want %d", test.name, n, test.all)
		}
	}
}
