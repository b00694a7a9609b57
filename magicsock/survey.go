package magicsock

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/magicsock/netcheck"
	"github.com/nodetun/nodetun/magicsock/nodemap"
	"github.com/nodetun/nodetun/magicsock/portmap"
	"github.com/nodetun/nodetun/magicsock/udpconn"
	"github.com/nodetun/nodetun/relay"
)

const (
	// While payload moves the addresses are asked for every 20 to 26 s, as
	// iroh-net does, which also keeps the mappings that others know alive.
	surveyMin  = 20 * time.Second
	surveyMore = 6 * time.Second
	// surveyIdle is the same while no session is active.
	surveyIdle = 5 * time.Minute
	// freshAddrs is how old addresses may be for a call-me-maybe.
	freshAddrs = 27 * time.Second
	// doubtGap is how old they are at least when the death of a path has them asked
	// for at once; younger ones are when they are needed.
	doubtGap = time.Second
)

// NetInfo is what is known about the network around this node.
type NetInfo struct {
	// NAT names the kind of NAT before this node: none, easy, hard, blocked, or
	// unknown.
	NAT string
	// Report is the last one of netcheck; nil before the first. Not to be changed.
	Report *netcheck.Report
	// Portmap is the protocol of the port mapping in use ("pcp", "nat-pmp",
	// "upnp"), empty for none, and PortmapAddr its address outside.
	Portmap     string
	PortmapAddr netip.AddrPort
}

// survey keeps NetInfo up to date, and the direct addresses, the order of
// relays and the node map with it.
type survey struct {
	c       *Conn
	checker *netcheck.Checker
	mapper  *portmap.Client // nil: port mapping is off
	kick    chan struct{}
	outside [2]netip.Addr // by IPv4 and by IPv6, as others saw this host last; found's

	turn     sync.Mutex // one run of the checker at a time; guards progress
	progress func(netcheck.Progress)

	mu     sync.Mutex // guards the fields below
	at     time.Time  // when addresses were last asked for
	full   bool       // the next one leaves nothing out
	callMe map[identity.NodeID]nodemap.Addr
}

func newSurvey(c *Conn) *survey {
	s := &survey{c: c, kick: make(chan struct{}, 1), full: true, callMe: make(map[identity.NodeID]nodemap.Addr)}
	control := udpconn.MarkControl(c.cfg.Fwmark, c.log)
	if inMemory := c.cfg.Underlay != nil; !c.cfg.NoPortmap && (!inMemory || c.under.ListenUDP != nil) {
		secret := c.cfg.Key.PortmapSecret()
		s.mapper = portmap.New(portmap.Config{
			Gateway: s.gateway, Control: control, Secret: secret[:], Changed: s.news, Logger: c.log,
			Listen: c.under.ListenUDP, DialTCP: c.under.DialTCP,
		})
		s.setPort()
	}
	var relays []relay.Node
	for _, url := range c.cfg.Relays {
		relays = append(relays, relay.Node{URL: url, STUNPort: relay.DefaultSTUNPort})
	}
	var proxy func(*http.Request) (*url.URL, error)
	if c.cfg.Proxy != nil {
		proxy = func(r *http.Request) (*url.URL, error) { return c.cfg.Proxy(r.URL), nil }
	}
	s.checker = netcheck.New(netcheck.Config{
		Send:   func(b []byte, to netip.AddrPort) error { return c.write(b, 0, 0, to) },
		Relays: relays, STUN: c.cfg.STUN,
		HaveV4: func() bool { return s.have(false) }, HaveV6: func() bool { return s.have(true) },
		PortmapProbe: s.probePortmap, Control: control,
		DNS: c.cfg.DNS, Dial: c.under.DialTCP, Lookup: c.under.Lookup, NoICMP: c.cfg.Underlay != nil,
		Proxy: proxy, InsecureTLS: c.cfg.InsecureRelayTLS, Logger: c.log, Addrs: s.seen,
		Progress: func(p netcheck.Progress) {
			if s.progress != nil { // called by Run, which has the turn
				s.progress(p)
			}
		},
	})
	return s
}

// gateway tells the port mapper whom to ask.
func (s *survey) gateway() (portmap.Gateway, bool) {
	g, ok := s.c.monitor.Gateway()
	return portmap.Gateway{Addr: g.Addr, Self: g.Self, Interface: g.Interface}, ok
}

// setPort tells the port mapper which port is to be reached from outside.
func (s *survey) setPort() {
	if v4, _ := s.c.LocalAddrs(); s.mapper != nil && v4.IsValid() {
		s.mapper.SetPort(v4.Port())
	}
}

// have says that there is a direct address of that IP version, and a socket.
func (s *survey) have(is6 bool) bool {
	return s.c.addrs.anyLocal(func(a netip.Addr) bool { return a.Is6() == is6 && !a.IsLoopback() })
}

func (s *survey) probePortmap(ctx context.Context) (netcheck.Portmap, bool) {
	if s.mapper == nil {
		return netcheck.Portmap{}, false
	}
	seen := s.mapper.Probe(ctx)
	return netcheck.Portmap{UPnP: seen.UPnP, PCP: seen.PCP, NATPMP: seen.NATPMP}, true
}

// run makes reports until ctx ends.
func (s *survey) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.kick:
		case <-timer.C:
		}
		if s.mapper != nil {
			s.mapper.Wake()
		}
		_, _ = s.report(ctx, s.takeFull(), nil) // the error is that of ctx
		timer.Reset(s.pause())
	}
}

// pause is how long the next report may wait when nothing happens.
func (s *survey) pause() time.Duration {
	if s.c.paths.active(time.Now()) {
		return surveyMin + rand.N(surveyMore)
	}
	return surveyIdle
}

// soon makes the next report now; full leaves nothing out.
func (s *survey) soon(full bool) {
	s.mu.Lock()
	s.full = s.full || full
	s.mu.Unlock()
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

func (s *survey) takeFull() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	full := s.full
	s.full = false
	return full
}

// report runs the checker and uses what it found.
func (s *survey) report(ctx context.Context, full bool, progress func(netcheck.Progress)) (*netcheck.Report, error) {
	s.turn.Lock()
	defer s.turn.Unlock()
	s.progress = progress
	began := time.Now()
	r, err := s.checker.Run(ctx, full)
	if r == nil || ctx.Err() != nil {
		return r, err
	}
	s.fresh(began)
	s.news()
	return r, err
}

// found applies the last report, when the addresses in it are in force: what waited
// for them goes out.
func (s *survey) found() {
	defer s.flushCallMe()
	c, r := s.c, s.checker.Last()
	if r == nil {
		return
	}
	c.relays.Prefer(s.checker.Order(nil))
	if s.moved(r) {
		c.log.Info("the address outside changed", "ipv4", r.GlobalV4, "ipv6", r.GlobalV6)
		c.relays.NetworkChanged(false) // TCP of before is dead, and does not know it
		if s.mapper != nil {
			s.mapper.NetworkChanged()
		}
	}
	nat := nodemap.NAT{Hard: r.MappingVariesV4.IsTrue(), Easy: r.MappingVariesV4.IsFalse(), Step: r.PortDelta}
	c.perform(c.paths.do(func(m *nodemap.Map) []nodemap.Action { m.SetOwnNAT(nat); return nil }))
	if c.cfg.OnNetInfo != nil {
		c.cfg.OnNetInfo()
	}
}

// moved reports whether others see this host at another address than before.
func (s *survey) moved(r *netcheck.Report) bool {
	changed := false
	for i, now := range []netip.Addr{r.GlobalV4.Addr(), r.GlobalV6.Addr()} {
		if !now.IsValid() {
			continue
		}
		changed = changed || s.outside[i].IsValid() && s.outside[i] != now
		s.outside[i] = now
	}
	return changed
}

// addrs are the direct addresses found from outside.
func (s *survey) addrs() []DirectAddr {
	var list []DirectAddr
	add := func(a netip.AddrPort, kind AddrKind) {
		if a.IsValid() && usableOutside(a.Addr()) && !s.c.addrs.inTun(a.Addr()) {
			list = append(list, DirectAddr{Addr: a, Kind: kind})
		}
	}
	if s.mapper != nil {
		if m, ok := s.mapper.Mapping(); ok {
			add(m.External, AddrPortmap)
		}
	}
	r := s.checker.Last()
	if r == nil {
		return list
	}
	add(r.GlobalV4, AddrSTUN)
	// A router with a static forward of our port may still be hard to others.
	if v4, _ := s.c.LocalAddrs(); r.GlobalV4.IsValid() && v4.IsValid() && !r.MappingVariesV4.IsFalse() {
		add(netip.AddrPortFrom(r.GlobalV4.Addr(), v4.Port()), AddrSTUNLocalPort)
	}
	add(r.GlobalV6, AddrSTUN)
	return list
}

// news says that there is a report, a port mapping or an address from outside.
func (s *survey) news() { s.c.addrs.look(partFound) }

// seen is called by the checker as soon as it knows an address, long before a
// report is complete: what waits for addresses goes out.
func (s *survey) seen() {
	s.fresh(time.Now())
	s.news()
}

// doubt is called when a direct path died: our NAT may have moved, and then what
// we tell others is wrong.
func (s *survey) doubt() {
	s.mu.Lock()
	old := time.Since(s.at) >= doubtGap
	s.at = time.Time{}
	s.mu.Unlock()
	if old {
		s.soon(false)
	}
}

// fresh notes that the addresses are those of a time.
func (s *survey) fresh(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at.After(s.at) {
		s.at = at
	}
}

// ask sends a call-me-maybe, and another one when the addresses were old and
// fresh ones are there.
func (s *survey) ask(node identity.NodeID, via nodemap.Addr) {
	s.c.sendCallMe(node, via)
	s.mu.Lock()
	fresh := time.Since(s.at) <= freshAddrs && !s.at.IsZero()
	if !fresh {
		s.callMe[node] = via
	}
	s.mu.Unlock()
	if !fresh {
		s.soon(false)
	}
}

// flushCallMe sends what waited for a report.
func (s *survey) flushCallMe() {
	s.mu.Lock()
	waiting := s.callMe
	s.callMe = make(map[identity.NodeID]nodemap.Addr)
	s.mu.Unlock()
	for node, via := range waiting {
		s.c.sendCallMe(node, via)
	}
}

// info returns what is known now.
func (s *survey) info() NetInfo {
	r := s.checker.Last()
	info := NetInfo{Report: r, NAT: r.NAT(s.c.addrs.isLocal)}
	if s.mapper != nil {
		if m, ok := s.mapper.Mapping(); ok {
			info.Portmap, info.PortmapAddr = m.Protocol, m.External
		}
	}
	return info
}

// NetInfo tells what is known about the network around this node.
func (c *Conn) NetInfo() NetInfo { return c.survey.info() }

// Netcheck looks at everything anew and returns what it found; progress, which
// may be nil, is told each step. It needs Run.
func (c *Conn) Netcheck(ctx context.Context, progress func(netcheck.Progress)) (*netcheck.Report, error) {
	return c.survey.report(ctx, true, progress)
}
