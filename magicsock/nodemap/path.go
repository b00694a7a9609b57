package nodemap

import (
	"net/netip"
	"slices"
	"time"

	"github.com/nodetun/nodetun/magicsock/disco"
)

// path is what is known about one direct address of a node.
type path struct {
	addr    netip.AddrPort
	sources []Source
	added   time.Time
	named   time.Time // last time a call-me-maybe listed it
	owned   bool      // the ip:port index names this path

	out   probes
	room  room
	watch watch
	grant grant

	// lastPong and lastBigPong (the pong to a padded ping) carry trust and are
	// forgotten with it; everPong and latency stay.
	lastPong, lastBigPong, everPong time.Time
	latency                         time.Duration
	firstPong                       time.Time // since the path was forgotten
	detour                          bool      // it leads through somebody's tunnel
	left                            bool      // unanswered for too long: not before the next padded pong

	lastPayload, lastHeard time.Time
	control                time.Time
	controlKind            string
	lastTx                 disco.TxID // of the last ping received there
	heardTx                bool
}

// probes counts our pings to an address.
type probes struct {
	last, lastBig time.Time // any, padded
	back          time.Time // the last ping sent back out of turn
	tries         int       // since the last pong or sign of life
	turn          int       // pings since the last padded pong, of any size
	bigTries      int       // the padded ones of them
	small         time.Time // a small pong since then
	pauseUntil    time.Time // given up
	pending       bool      // wanted, but no budget was left
}

// watch finds out that a path in use has died.
type watch struct {
	sent   time.Time // the first payload sent since the path was last heard
	ping   time.Time // the oldest ping unanswered that is younger than the last pong's ping
	oneWay bool      // the last silence was ended by a pong, not by payload
}

// delay returns how long payload may be unanswered before a probe.
func (w *watch) delay() time.Duration {
	if w.oneWay {
		return probeDelayOne
	}
	return probeDelay
}

// addSource notes where the address is known from.
func (p *path) addSource(s Source) {
	if s != "" && len(p.sources) < maxSources && !slices.Contains(p.sources, s) {
		p.sources = append(p.sources, s)
	}
}

func (p *path) byUser() bool { return slices.Contains(p.sources, SourceApp) }

// usable says that payload may go there now (S7, small paths).
func (p *path) usable(now time.Time) bool {
	return p.owned && !p.left && !p.lastBigPong.IsZero() && age(now, p.lastPong) < trustTime
}

// answered says that the address is not one of the unknown ones whose pings are
// limited.
func (p *path) answered(now time.Time) bool { return age(now, p.everPong) < answeredFor }

// givenUp says that the address is not to be pinged for now.
func (p *path) givenUp(now time.Time) bool {
	return now.Before(p.out.pauseUntil) && !p.byUser()
}

// narrow says that small pings are answered and padded ones are not.
func (p *path) narrow() bool { return p.out.bigTries >= 2 && !p.out.small.IsZero() }

// pingSize returns the size of the next ping: padded while the path has to prove
// that it carries QUIC, by turns with small ones when it does not answer, and
// while payload is sent, so that a path that shrinks is found out.
func (p *path) pingSize(now time.Time, sending bool) int {
	proven := !p.lastBigPong.IsZero() && !p.left
	switch {
	case !proven && p.out.turn%2 == 1:
		return 0
	case !proven, sending, !p.watch.sent.IsZero() && age(now, p.watch.sent) >= probeDelay,
		age(now, p.lastBigPong) >= requalify:
		return p.full()
	}
	return 0
}

// grace is how long a ping may be unanswered without meaning anything.
func (p *path) grace() time.Duration { return min(max(2*p.latency, graceMin), graceMax) }

// heard notes a sign of life from the address. After silence it means that a NAT
// is open now: pings sent before prove nothing about the size of packets.
func (p *path) heard(now time.Time) {
	if age(now, p.lastHeard) >= openTime {
		p.out.turn, p.out.bigTries, p.out.lastBig = 0, 0, time.Time{}
	}
	p.lastHeard = now
	if !p.everPong.IsZero() { // a ping may have any source (S9)
		p.out.tries = 0
		p.out.pauseUntil = time.Time{}
	}
}

// controlled notes a control message about the address for display.
func (p *path) controlled(now time.Time, kind string) { p.control, p.controlKind = now, kind }

// pong notes the answer to a ping of the given size.
func (p *path) pong(now time.Time, latency time.Duration, size int) {
	p.controlled(now, "pong←")
	switch {
	case p.firstPong.IsZero():
		p.firstPong, p.latency = now, latency
	case latency < p.latency: // what is longer is the machine's, or a queue's
		p.latency = latency
	default:
		p.latency = (3*p.latency + latency) / 4
	}
	p.lastPong, p.everPong = now, now
	p.heard(now)
	if size < p.full() {
		p.out.small = now
		return
	}
	p.lastBigPong = now
	p.left = false
	p.out.turn, p.out.bigTries, p.out.small = 0, 0, time.Time{}
	if !p.watch.sent.IsZero() {
		p.watch.sent = time.Time{}
		p.watch.oneWay = true
	}
}

// forget drops all trust and all history of pings, after a network change.
func (p *path) forget() {
	p.out = probes{}
	p.room = room{}
	p.watch = watch{}
	p.lastPong, p.lastBigPong, p.firstPong = time.Time{}, time.Time{}, time.Time{}
	p.left = false
}

// suspectAt returns when the path becomes suspect if nothing is heard, zero for
// never. doubt is when something last hinted that the path in use no longer works
// both ways.
func (p *path) suspectAt(doubt time.Time) time.Time {
	w := &p.watch
	if w.ping.IsZero() {
		return time.Time{}
	}
	unanswered := w.ping.Add(p.grace())
	t := w.ping.Add(suspectPing)
	if !w.sent.IsZero() {
		t = earlier(t, later(unanswered, w.sent.Add(w.delay()+suspectDelay)))
	}
	if doubt.After(p.lastPong) {
		t = earlier(t, unanswered)
	}
	return t
}

// leaveAt returns when the path is to be left if nothing is heard, zero for
// never.
func (p *path) leaveAt() time.Time {
	w := &p.watch
	if w.ping.IsZero() {
		return time.Time{}
	}
	t := w.ping.Add(leaveTime)
	if !w.sent.IsZero() {
		t = earlier(t, later(w.ping.Add(p.grace()), w.sent.Add(leaveTime)))
	}
	return t
}

// upgradeGap is the time between looks for something better while payload takes this
// path; 0 for no such look.
func (p *path) upgradeGap() time.Duration {
	switch {
	case p.detour:
		return detourGap
	case p.latency > goodEnough:
		return upgradeGap
	}
	return 0
}

// due says that t is set and has come.
func due(now, t time.Time) bool { return !t.IsZero() && !now.Before(t) }

// better says that payload gains by going to a instead of b. What leads through a tunnel
// is the worse one, as it is made of the other most often. IPv6 wins unless
// IPv4 is clearly faster; otherwise only a clear gain in latency counts, so that
// two addresses of one latency do not take turns.
func better(a, b *path) bool {
	if a.detour != b.detour {
		return b.detour
	}
	if a.addr.Addr().Is6() && b.addr.Addr().Is4() {
		return a.latency*9/10 < b.latency
	}
	return a.latency < b.latency*8/10 && b.latency-a.latency > 500*time.Microsecond
}

// grant is what an address without a fresh pong may receive (S7), in windows of
// 5 s.
type grant struct {
	start   time.Time
	credit  int // bytes
	packets int // used beyond the credit
}

func (g *grant) roll(now time.Time) {
	if age(now, g.start) >= allowanceTime {
		*g = grant{start: now}
	}
}

// received adds the bytes of a packet that came from the address.
func (g *grant) received(now time.Time, n int) {
	g.roll(now)
	g.credit = min(g.credit+allowanceRate*n, 1<<20)
}

// spend returns how many of packets datagrams of n bytes in all may leave.
func (g *grant) spend(now time.Time, n, packets int) int {
	g.roll(now)
	packets = max(packets, 1)
	each := max(n/packets, 1)
	sent := 0
	for sent < packets {
		switch {
		case g.credit >= each:
			g.credit -= each
		case g.packets < allowance:
			g.packets++
		default:
			return sent
		}
		sent++
	}
	return sent
}
