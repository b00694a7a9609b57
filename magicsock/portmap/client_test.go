package portmap_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/nodetun/nodetun/magicsock/portmap"
	"github.com/nodetun/nodetun/magicsock/portmap/natpmp"
	"github.com/nodetun/nodetun/magicsock/portmap/pcp"
	"github.com/nodetun/nodetun/magicsock/portmap/portmaptest"
	"github.com/nodetun/nodetun/magicsock/portmap/ssdp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	self     = netip.MustParseAddr("192.168.1.2")
	gateway  = netip.MustParseAddr("192.168.1.1")
	external = netip.MustParseAddr("198.51.100.7")
)

// lan runs f with a network of its own and a clock of its own.
func lan(t *testing.T, f func(t *testing.T, l *portmaptest.LAN)) {
	synctest.Test(t, func(t *testing.T) { f(t, portmaptest.NewLAN()) })
}

// start serves a router until the test ends; its address is gateway.
func start(t *testing.T, l *portmaptest.LAN, o portmaptest.Options) *portmaptest.Router {
	t.Helper()
	o.LAN = l
	if !o.Addr.IsValid() {
		o.Addr = gateway
	}
	if !o.External.IsValid() {
		o.External = external
	}
	r, err := portmaptest.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// client is one that runs until the test ends, or end is called.
type client struct {
	*portmap.Client
	t       *testing.T
	changed chan struct{}
	cancel  func()
	done    chan error
}

// run starts a client at self. Its router is gateway unless cfg says otherwise.
func run(t *testing.T, l *portmaptest.LAN, cfg portmap.Config) *client {
	t.Helper()
	if cfg.Gateway == nil {
		cfg.Gateway = func() (portmap.Gateway, bool) { return portmap.Gateway{Addr: gateway, Self: self}, true }
	}
	cfg.Listen = func(local netip.AddrPort) (portmap.PacketConn, error) { return l.Listen(local) }
	cfg.ListenGroup = func(group netip.AddrPort, _ portmap.Gateway) (portmap.PacketConn, error) { return l.ListenGroup(group) }
	cfg.DialTCP = func(ctx context.Context, _, address string) (net.Conn, error) {
		gw, _ := cfg.Gateway()
		return l.DialTCP(ctx, gw.Self, address)
	}
	return runReal(t, cfg)
}

// runReal starts a client.
func runReal(t *testing.T, cfg portmap.Config) *client {
	t.Helper()
	c := &client{t: t, changed: make(chan struct{}, 100), done: make(chan error, 1)}
	cfg.Changed = func() { c.changed <- struct{}{} }
	c.Client = portmap.New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	go func() { c.done <- c.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-c.done; c.done <- nil })
	return c
}

// end stops the client and returns how long that took.
func (c *client) end() time.Duration {
	began := time.Now()
	c.cancel()
	if err := <-c.done; err != nil {
		c.t.Error(err)
	}
	c.done <- nil
	return time.Since(began)
}

// await waits until the mapping is as is says.
func (c *client) await(what string, is func(portmap.Mapping, bool) bool) portmap.Mapping {
	c.t.Helper()
	deadline := time.After(time.Minute)
	for {
		m, ok := c.Mapping()
		if is(m, ok) {
			return m
		}
		select {
		case <-c.changed:
		case <-deadline:
			c.t.Fatalf("%s: mapping %+v, %v", what, m, ok)
		}
	}
}

func present(_ portmap.Mapping, ok bool) bool { return ok }

func TestEachProtocol(t *testing.T) {
	tests := map[string]portmaptest.Options{
		"pcp":     {PCP: true},
		"nat-pmp": {NATPMP: true},
		"upnp":    {UPnP: true},
	}
	for name, o := range tests {
		t.Run(name, func(t *testing.T) {
			lan(t, func(t *testing.T, l *portmaptest.LAN) {
				lifeOf(t, start(t, l, o), run(t, l, portmap.Config{}), name, gateway, self)
			})
		})
	}
}

// The same with real sockets, on loopback, at an address of this process alone.
func TestRealSockets(t *testing.T) {
	pid := os.Getpid()
	router, self := netip.AddrFrom4([4]byte{127, 77 + byte(pid>>16), byte(pid >> 8), byte(pid)}), netip.MustParseAddr("127.0.0.1")
	for name, o := range map[string]portmaptest.Options{"pcp": {PCP: true}, "upnp": {UPnP: true}} {
		t.Run(name, func(t *testing.T) {
			o.Addr = router
			c := runReal(t, portmap.Config{Gateway: func() (portmap.Gateway, bool) {
				return portmap.Gateway{Addr: router, Self: self, Interface: "lo"}, true
			}})
			lifeOf(t, start(t, nil, o), c, name, router, self)
		})
	}
}

// lifeOf has a client map a port, change it, and withdraw it.
func lifeOf(t *testing.T, r *portmaptest.Router, c *client, protocol string, gateway, self netip.Addr) {
	c.SetPort(41820)
	m := c.await("obtained", present)
	if m.External != netip.AddrPortFrom(external, 41820) || m.Internal != 41820 || m.Protocol != protocol || m.Private || m.Gateway != gateway {
		t.Errorf("mapping %+v", m)
	}
	if list := r.Mappings(); len(list) != 1 || list[0].Internal != netip.AddrPortFrom(self, 41820) || list[0].Protocol != protocol {
		t.Errorf("the router maps %+v", list)
	}
	c.SetPort(41821)
	m = c.await("another port", func(m portmap.Mapping, ok bool) bool { return ok && m.Internal == 41821 })
	if list := r.Mappings(); len(list) != 1 || list[0].External != m.External.Port() {
		t.Errorf("after the change of port the router maps %+v", list)
	}
	c.end()
	if list := r.Mappings(); len(list) != 0 {
		t.Errorf("not withdrawn: %+v", list)
	}
}

// The best protocol wins, and Probe sees them all.
func TestPreferenceAndProbe(t *testing.T) {
	tests := []struct {
		o    portmaptest.Options
		want string
	}{
		{portmaptest.Options{PCP: true, NATPMP: true, UPnP: true}, "pcp"},
		{portmaptest.Options{NATPMP: true, UPnP: true}, "nat-pmp"},
	}
	for _, test := range tests {
		t.Run(test.want, func(t *testing.T) {
			lan(t, func(t *testing.T, l *portmaptest.LAN) {
				start(t, l, test.o)
				c := run(t, l, portmap.Config{})
				c.SetPort(41820)
				if m := c.await("obtained", present); m.Protocol != test.want {
					t.Errorf("by %s", m.Protocol)
				}
				want := portmap.Seen{PCP: test.o.PCP, NATPMP: test.o.NATPMP, UPnP: test.o.UPnP}
				if seen := c.Probe(t.Context()); seen != want {
					t.Errorf("seen %+v, want %+v", seen, want)
				}
			})
		})
	}
}

func TestNoRouter(t *testing.T) {
	lan(t, func(t *testing.T, l *portmaptest.LAN) {
		silent := run(t, l, portmap.Config{}) // nobody answers there
		silent.SetPort(41820)
		if seen := silent.Probe(t.Context()); seen != (portmap.Seen{}) {
			t.Errorf("seen %+v", seen)
		}
		if took := silent.end(); took > 1200*time.Millisecond {
			t.Errorf("ended after %v", took)
		}
		none := run(t, l, portmap.Config{Gateway: func() (portmap.Gateway, bool) { return portmap.Gateway{}, false }})
		none.SetPort(41820)
		if seen := none.Probe(t.Context()); seen != (portmap.Seen{}) {
			t.Errorf("seen %+v", seen)
		}
		if _, ok := none.Mapping(); ok {
			t.Error("a mapping without a router")
		}
	})
}

// A mapping lives on for as long as the client does.
func TestRenewal(t *testing.T) {
	for _, o := range []portmaptest.Options{{PCP: true}, {NATPMP: true}, {UPnP: true}} {
		t.Run(fmt.Sprintf("%v %v %v", o.PCP, o.NATPMP, o.UPnP), func(t *testing.T) {
			lan(t, func(t *testing.T, l *portmaptest.LAN) {
				r := start(t, l, o)
				c := run(t, l, portmap.Config{})
				c.SetPort(41820)
				first := c.await("obtained", present)
				time.Sleep(24 * time.Hour)
				m, ok := c.Mapping()
				if !ok || m.External != first.External || len(r.Mappings()) != 1 {
					t.Errorf("after a day: mapping %+v, %v; the router maps %+v", m, ok, r.Mappings())
				}
			})
		})
	}
}

// A router that forgot is noticed by its clock when it is asked again, and at once
// when it announces its start.
func TestRebootIsNoticed(t *testing.T) {
	for _, o := range []portmaptest.Options{{PCP: true}, {NATPMP: true}, {UPnP: true}} {
		for _, announces := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v %v %v announces %v", o.PCP, o.NATPMP, o.UPnP, announces), func(t *testing.T) {
				lan(t, func(t *testing.T, l *portmaptest.LAN) {
					r := start(t, l, o)
					c := run(t, l, portmap.Config{})
					c.SetPort(41820)
					c.await("obtained", present)
					time.Sleep(5 * time.Minute) // its clock has to go back by something
					r.Reboot(announces)
					if len(r.Mappings()) != 0 {
						t.Fatal("the router remembers")
					}
					if !announces {
						c.NetworkChanged()
					}
					time.Sleep(10 * time.Second)
					if len(r.Mappings()) == 0 {
						t.Error("not mapped again")
					}
				})
			})
		}
	}
}

func TestRefusals(t *testing.T) {
	tests := map[string]struct {
		o    portmaptest.Options
		want string // protocol, empty for none
	}{
		"pcp refuses":                  {portmaptest.Options{PCP: true, Refuse: true}, ""},
		"nat-pmp refuses":              {portmaptest.Options{NATPMP: true, Refuse: true}, ""},
		"upnp refuses":                 {portmaptest.Options{UPnP: true, Refuse: true}, ""},
		"upnp knows no leases":         {portmaptest.Options{UPnP: true, Permanent: true}, "upnp"},
		"outside is a multicast group": {portmaptest.Options{PCP: true, External: netip.MustParseAddr("224.0.0.7")}, ""},
		"outside is loopback":          {portmaptest.Options{PCP: true, External: netip.MustParseAddr("127.0.0.1")}, ""},
		"outside is nothing":           {portmaptest.Options{PCP: true, External: netip.IPv4Unspecified()}, ""},
		"life too short":               {portmaptest.Options{PCP: true, Lifetime: time.Second}, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			lan(t, func(t *testing.T, l *portmaptest.LAN) {
				r := start(t, l, test.o)
				c := run(t, l, portmap.Config{})
				c.SetPort(41820)
				if test.want != "" {
					if m := c.await("obtained", present); m.Protocol != test.want {
						t.Errorf("mapping %+v", m)
					}
					return
				}
				time.Sleep(time.Minute)
				if m, ok := c.Mapping(); ok {
					t.Errorf("mapping %+v", m)
				}
				if r.Requests() < 2 {
					t.Errorf("%d requests", r.Requests())
				}
			})
		})
	}
}

// A mapping of a router that is itself behind a NAT is of use inside only.
func TestPrivateOutside(t *testing.T) {
	for _, outside := range []string{"10.1.2.3", "100.64.3.4", "192.168.7.7"} {
		lan(t, func(t *testing.T, l *portmaptest.LAN) {
			start(t, l, portmaptest.Options{PCP: true, External: netip.MustParseAddr(outside)})
			c := run(t, l, portmap.Config{})
			c.SetPort(41820)
			if m := c.await("obtained", present); !m.Private {
				t.Errorf("%s is not marked as private", outside)
			}
		})
	}
}

// A taken port of UPnP leads to another one.
func TestTakenPort(t *testing.T) {
	lan(t, func(t *testing.T, l *portmaptest.LAN) {
		r := start(t, l, portmaptest.Options{UPnP: true})
		at := func(self string) portmap.Config {
			return portmap.Config{Gateway: func() (portmap.Gateway, bool) {
				return portmap.Gateway{Addr: gateway, Self: netip.MustParseAddr(self)}, true
			}}
		}
		a := run(t, l, at("192.168.1.2"))
		a.SetPort(41820)
		first := a.await("first", present)
		b := run(t, l, at("192.168.1.3"))
		b.SetPort(41820)
		second := b.await("second", present)
		if first.External == second.External || len(r.Mappings()) != 2 {
			t.Errorf("%v and %v, the router maps %+v", first.External, second.External, r.Mappings())
		}
	})
}

func TestGatewayChanges(t *testing.T) {
	lan(t, func(t *testing.T, l *portmaptest.LAN) {
		one, two := gateway, netip.MustParseAddr("10.0.0.1")
		start(t, l, portmaptest.Options{PCP: true})
		start(t, l, portmaptest.Options{Addr: two, NATPMP: true, External: netip.MustParseAddr("198.51.100.9")})
		var now atomic.Pointer[netip.Addr]
		now.Store(&one)
		c := run(t, l, portmap.Config{Gateway: func() (portmap.Gateway, bool) {
			return portmap.Gateway{Addr: *now.Load(), Self: self}, true
		}})
		c.SetPort(41820)
		c.await("the first router", present)
		now.Store(&two)
		c.NetworkChanged()
		c.await("the second router", func(m portmap.Mapping, ok bool) bool { return ok && m.Gateway == two && m.Protocol == "nat-pmp" })
	})
}

// Another network has a router at the same address, as most have: what it maps is in use
// within three seconds, by each protocol.
func TestAnotherRouterAtTheSameAddress(t *testing.T) {
	for name, o := range map[string]portmaptest.Options{"PCP": {PCP: true}, "NAT-PMP": {NATPMP: true}, "UPnP": {UPnP: true}} {
		t.Run(name, func(t *testing.T) {
			lan(t, func(t *testing.T, l *portmaptest.LAN) {
				first := start(t, l, portmaptest.Options{PCP: o.PCP, NATPMP: o.NATPMP, UPnP: o.UPnP})
				c := run(t, l, portmap.Config{})
				c.SetPort(41820)
				c.await("the first router", present)
				time.Sleep(time.Minute)
				first.Close()
				elsewhere := netip.MustParseAddr("198.51.100.9")
				second := o
				second.External = elsewhere
				start(t, l, second)
				began := time.Now()
				c.NetworkChanged()
				c.await("the second router", func(m portmap.Mapping, ok bool) bool { return ok && m.External.Addr() == elsewhere })
				if took := time.Since(began); took > 3*time.Second {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

// evil answers each question on the port of PCP and NAT-PMP by what forge makes of
// it, from another port if fromElse, and counts the questions.
func evil(t *testing.T, l *portmaptest.LAN, fromElse bool, forge func(q []byte) [][]byte) *atomic.Int64 {
	t.Helper()
	conn, err := l.Listen(netip.AddrPortFrom(gateway, natpmp.ServerPort))
	if err != nil {
		t.Fatal(err)
	}
	out := conn
	if fromElse {
		if out, err = l.Listen(netip.AddrPortFrom(gateway, 0)); err != nil {
			t.Fatal(err)
		}
	}
	asked, done := new(atomic.Int64), make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 2048)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue
			}
			asked.Add(1)
			for _, b := range forge(buf[:n]) {
				_, _ = out.WriteToUDPAddrPort(b, from)
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); out.Close(); <-done })
	return asked
}

// granted is a good answer to a PCP question.
func granted(q []byte, change func(*pcp.Answer)) []byte {
	r, err := pcp.ParseRequest(q)
	if err != nil {
		return nil
	}
	a := pcp.Answer{Op: r.Op, Lifetime: time.Hour, Epoch: time.Minute, Map: r.Map}
	a.Map.External = netip.AddrPortFrom(external, 4444)
	change(&a)
	return pcp.AppendAnswer(nil, a)
}

// Answers that are not the router's, or not to our question, make no mapping.
func TestForgedAnswers(t *testing.T) {
	good := func(*pcp.Answer) {}
	tests := map[string]struct {
		fromElse bool
		forge    func(q []byte) [][]byte
	}{
		"from another port": {true, func(q []byte) [][]byte { return [][]byte{granted(q, good)} }},
		"wrong nonce": {false, func(q []byte) [][]byte {
			return [][]byte{granted(q, func(a *pcp.Answer) { a.Map.Nonce[0] ^= 1 })}
		}},
		"wrong port inside": {false, func(q []byte) [][]byte { return [][]byte{granted(q, func(a *pcp.Answer) { a.Map.Internal++ })} }},
		"port 0 outside": {false, func(q []byte) [][]byte {
			return [][]byte{granted(q, func(a *pcp.Answer) { a.Map.External = netip.AddrPortFrom(external, 0) })}
		}},
		"truncated": {false, func(q []byte) (list [][]byte) {
			b := granted(q, good)
			for n := range max(len(b)-1, 0) {
				list = append(list, b[:n])
			}
			return list
		}},
		"our own question": {false, func(q []byte) [][]byte { return [][]byte{q} }},
		"noise": {false, func(q []byte) [][]byte {
			return [][]byte{{}, {2}, []byte(strings.Repeat("\x02", 60)), []byte(strings.Repeat("\x80", 60)), binary.BigEndian.AppendUint64(nil, 1<<63)}
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			lan(t, func(t *testing.T, l *portmaptest.LAN) {
				asked := evil(t, l, test.fromElse, test.forge)
				c := run(t, l, portmap.Config{Protocols: portmap.PCP | portmap.NATPMP})
				c.SetPort(41820)
				time.Sleep(10 * time.Minute)
				if m, ok := c.Mapping(); ok {
					t.Errorf("mapping %+v", m)
				}
				if asked.Load() < 3 {
					t.Errorf("asked %d times", asked.Load())
				}
			})
		})
	}
}

// A router that never answers is asked again after 1, 5 and 30 minutes, and when the
// network changes: whatever else happens, a node at rest does not go on asking.
func TestSilentRouterIsLeftAlone(t *testing.T) {
	lan(t, func(t *testing.T, l *portmaptest.LAN) {
		asked := evil(t, l, false, func([]byte) [][]byte { return nil })
		c := run(t, l, portmap.Config{Protocols: portmap.PCP | portmap.NATPMP})
		c.SetPort(41820)
		time.Sleep(30 * time.Second)
		once := asked.Load()
		if once == 0 {
			t.Fatal("not asked at all")
		}
		for range 60 { // an hour in which the mapping would be of use
			c.Wake()
			c.SetPort(41820)
			time.Sleep(time.Minute)
		}
		if n := asked.Load(); n != 4*once {
			t.Errorf("%d questions in an hour, %d at a time", n, once)
		}
		c.NetworkChanged()
		time.Sleep(30 * time.Second)
		if n := asked.Load(); n != 5*once {
			t.Errorf("%d questions after a change of the network, %d at a time", n, once)
		}
	})
}

// An absurd lifetime is cut to a day.
func TestAbsurdLifetime(t *testing.T) {
	lan(t, func(t *testing.T, l *portmaptest.LAN) {
		evil(t, l, false, func(q []byte) [][]byte {
			return [][]byte{granted(q, func(a *pcp.Answer) { a.Lifetime = 1 << 31 * time.Second })}
		})
		c := run(t, l, portmap.Config{Protocols: portmap.PCP})
		c.SetPort(41820)
		if m := c.await("obtained", present); time.Until(m.Expires) > 24*time.Hour {
			t.Errorf("expires in %v", time.Until(m.Expires))
		}
	})
}

// A device that names a description elsewhere is not followed there: anybody in the
// network could have us ask anybody else.
func TestDescriptionElsewhere(t *testing.T) {
	lan(t, func(t *testing.T, l *portmaptest.LAN) {
		victim := l.ListenTCP(netip.MustParseAddrPort("192.168.1.66:80"))
		go func() {
			if conn, err := victim.Accept(); err == nil {
				conn.Close()
				t.Error("the client connected to what the device named")
			}
		}()
		conn, err := l.Listen(netip.AddrPortFrom(gateway, ssdp.Port))
		if err != nil {
			t.Fatal(err)
		}
		var asked atomic.Int64
		go func() {
			buf := make([]byte, 2048)
			for {
				_, from, err := conn.ReadFromUDPAddrPort(buf)
				if err != nil {
					return
				}
				asked.Add(1)
				_, _ = conn.WriteToUDPAddrPort(ssdp.AppendResponse(nil, ssdp.Message{
					Target: ssdp.Gateway, USN: "uuid:evil", Location: "http://" + victim.Addr().String() + "/device.xml",
				}), from)
			}
		}()
		defer func() { conn.Close(); victim.Close() }()
		c := run(t, l, portmap.Config{Protocols: portmap.UPnP})
		c.SetPort(41820)
		time.Sleep(time.Minute)
		if m, ok := c.Mapping(); ok {
			t.Errorf("mapping %+v", m)
		}
		if asked.Load() == 0 {
			t.Error("the device was never asked")
		}
	})
}
