package portmap_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
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
	self     = netip.MustParseAddr("127.0.0.1")
	external = netip.MustParseAddr("198.51.100.7")
	lastAddr atomic.Uint32
)

// routerAddr is a loopback address of this test alone.
func routerAddr() netip.Addr {
	n := lastAddr.Add(1)
	return netip.AddrFrom4([4]byte{127, 77, byte(n >> 8), byte(n)})
}

// start serves a router until the test ends.
func start(t *testing.T, o portmaptest.Options) *portmaptest.Router {
	t.Helper()
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

func run(t *testing.T, cfg portmap.Config, router netip.Addr) *client {
	t.Helper()
	c := &client{t: t, changed: make(chan struct{}, 100), done: make(chan error, 1)}
	if cfg.Gateway == nil {
		cfg.Gateway = func() (portmap.Gateway, bool) {
			return portmap.Gateway{Addr: router, Self: self, Interface: "lo"}, true
		}
	}
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
	deadline := time.After(15 * time.Second)
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
			t.Parallel()
			o.Addr = routerAddr()
			r := start(t, o)
			c := run(t, portmap.Config{}, o.Addr)
			c.SetPort(41820)
			m := c.await("obtained", present)
			if m.External != netip.AddrPortFrom(external, 41820) || m.Internal != 41820 || m.Protocol != name || m.Private || m.Gateway != o.Addr {
				t.Errorf("mapping %+v", m)
			}
			if list := r.Mappings(); len(list) != 1 || list[0].Internal != netip.AddrPortFrom(self, 41820) || list[0].Protocol != name {
				t.Errorf("the router maps %+v", list)
			}
			c.SetPort(41821)
			m = c.await("another port", func(m portmap.Mapping, ok bool) bool { return ok && m.Internal == 41821 })
			if list := r.Mappings(); len(list) != 1 || list[0].External != m.External.Port() {
				t.Errorf("after the change of port the router maps %+v", list)
			}
			if took := c.end(); took > 1200*time.Millisecond {
				t.Errorf("ended after %v", took)
			}
			if list := r.Mappings(); len(list) != 0 {
				t.Errorf("not withdrawn: %+v", list)
			}
		})
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
			t.Parallel()
			test.o.Addr = routerAddr()
			start(t, test.o)
			c := run(t, portmap.Config{}, test.o.Addr)
			c.SetPort(41820)
			if m := c.await("obtained", present); m.Protocol != test.want {
				t.Errorf("by %s", m.Protocol)
			}
			want := portmap.Seen{PCP: test.o.PCP, NATPMP: test.o.NATPMP, UPnP: test.o.UPnP}
			if seen := c.Probe(t.Context()); seen != want {
				t.Errorf("seen %+v, want %+v", seen, want)
			}
		})
	}
}

func TestNoRouter(t *testing.T) {
	t.Parallel()
	silent := run(t, portmap.Config{}, routerAddr()) // nobody answers there
	silent.SetPort(41820)
	if seen := silent.Probe(t.Context()); seen != (portmap.Seen{}) {
		t.Errorf("seen %+v", seen)
	}
	if took := silent.end(); took > 1200*time.Millisecond {
		t.Errorf("ended after %v", took)
	}
	none := run(t, portmap.Config{Gateway: func() (portmap.Gateway, bool) { return portmap.Gateway{}, false }}, netip.Addr{})
	none.SetPort(41820)
	if seen := none.Probe(t.Context()); seen != (portmap.Seen{}) {
		t.Errorf("seen %+v", seen)
	}
	if _, ok := none.Mapping(); ok {
		t.Error("a mapping without a router")
	}
}

func TestRenewal(t *testing.T) {
	for _, o := range []portmaptest.Options{{PCP: true}, {NATPMP: true}} {
		t.Run(fmt.Sprintf("pcp %v", o.PCP), func(t *testing.T) {
			t.Parallel()
			o.Addr, o.Lifetime = routerAddr(), 10*time.Second
			r := start(t, o)
			c := run(t, portmap.Config{}, o.Addr)
			c.SetPort(41820)
			first := c.await("obtained", present)
			deadline := time.Now().Add(8 * time.Second)
			for r.Mappings()[0].Expires.Sub(first.Expires) < 3*time.Second {
				if time.Now().After(deadline) {
					t.Fatalf("not renewed: %+v", r.Mappings())
				}
				time.Sleep(20 * time.Millisecond)
			}
			if _, ok := c.Mapping(); !ok {
				t.Error("lost while it was renewed")
			}
		})
	}
}

// A router that forgot is noticed by its clock when it is asked again.
func TestRebootIsNoticed(t *testing.T) {
	for _, o := range []portmaptest.Options{{PCP: true}, {NATPMP: true}, {UPnP: true}} {
		t.Run(fmt.Sprintf("%+v", o), func(t *testing.T) {
			t.Parallel()
			o.Addr = routerAddr()
			r := start(t, o)
			c := run(t, portmap.Config{}, o.Addr)
			c.SetPort(41820)
			c.await("obtained", present)
			r.Reboot(false)
			if len(r.Mappings()) != 0 {
				t.Fatal("the router remembers")
			}
			c.NetworkChanged()
			deadline := time.Now().Add(10 * time.Second)
			for len(r.Mappings()) == 0 {
				if time.Now().After(deadline) {
					t.Fatal("not mapped again")
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
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
			t.Parallel()
			test.o.Addr = routerAddr()
			r := start(t, test.o)
			c := run(t, portmap.Config{}, test.o.Addr)
			c.SetPort(41820)
			if test.want != "" {
				if m := c.await("obtained", present); m.Protocol != test.want {
					t.Errorf("mapping %+v", m)
				}
				return
			}
			deadline := time.Now().Add(5 * time.Second)
			for r.Requests() < 2 && time.Now().Before(deadline) {
				time.Sleep(10 * time.Millisecond)
			}
			time.Sleep(300 * time.Millisecond) // for an answer to be taken, wrongly
			if m, ok := c.Mapping(); ok {
				t.Errorf("mapping %+v", m)
			}
		})
	}
}

// A mapping of a router that is itself behind a NAT is of use inside only.
func TestPrivateOutside(t *testing.T) {
	for _, outside := range []string{"10.1.2.3", "100.64.3.4", "192.168.7.7"} {
		addr := routerAddr()
		start(t, portmaptest.Options{Addr: addr, PCP: true, External: netip.MustParseAddr(outside)})
		c := run(t, portmap.Config{}, addr)
		c.SetPort(41820)
		if m := c.await("obtained", present); !m.Private {
			t.Errorf("%s is not marked as private", outside)
		}
		c.end()
	}
}

// A taken port of UPnP leads to another one.
func TestTakenPort(t *testing.T) {
	addr := routerAddr()
	r := start(t, portmaptest.Options{Addr: addr, UPnP: true})
	gateway := func(self string) func() (portmap.Gateway, bool) {
		return func() (portmap.Gateway, bool) {
			return portmap.Gateway{Addr: addr, Self: netip.MustParseAddr(self), Interface: "lo"}, true
		}
	}
	a := run(t, portmap.Config{Gateway: gateway("127.0.0.1")}, addr)
	a.SetPort(41820)
	first := a.await("first", present)
	b := run(t, portmap.Config{Gateway: gateway("127.0.0.2")}, addr)
	b.SetPort(41820)
	second := b.await("second", present)
	if first.External == second.External || len(r.Mappings()) != 2 {
		t.Errorf("%v and %v, the router maps %+v", first.External, second.External, r.Mappings())
	}
}

func TestGatewayChanges(t *testing.T) {
	one, two := routerAddr(), routerAddr()
	start(t, portmaptest.Options{Addr: one, PCP: true})
	start(t, portmaptest.Options{Addr: two, NATPMP: true, External: netip.MustParseAddr("198.51.100.9")})
	var now atomic.Pointer[netip.Addr]
	now.Store(&one)
	c := run(t, portmap.Config{Gateway: func() (portmap.Gateway, bool) {
		return portmap.Gateway{Addr: *now.Load(), Self: self, Interface: "lo"}, true
	}}, one)
	c.SetPort(41820)
	c.await("the first router", present)
	now.Store(&two)
	c.NetworkChanged()
	c.await("the second router", func(m portmap.Mapping, ok bool) bool { return ok && m.Gateway == two && m.Protocol == "nat-pmp" })
}

// evil answers each question on the port of PCP and NAT-PMP by what forge makes of
// it, from another port if fromElse, and counts the questions.
func evil(t *testing.T, addr netip.Addr, fromElse bool, forge func(q []byte) [][]byte) *atomic.Int64 {
	t.Helper()
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, natpmp.ServerPort)))
	if err != nil {
		t.Fatal(err)
	}
	out := conn
	if fromElse {
		if out, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0))); err != nil {
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
			t.Parallel()
			addr := routerAddr()
			asked := evil(t, addr, test.fromElse, test.forge)
			c := run(t, portmap.Config{Protocols: portmap.PCP | portmap.NATPMP}, addr)
			c.SetPort(41820)
			deadline := time.Now().Add(5 * time.Second)
			for asked.Load() < 3 && time.Now().Before(deadline) {
				time.Sleep(10 * time.Millisecond)
			}
			time.Sleep(300 * time.Millisecond)
			if m, ok := c.Mapping(); ok {
				t.Errorf("mapping %+v", m)
			}
		})
	}
}

// An absurd lifetime is cut to a day.
func TestAbsurdLifetime(t *testing.T) {
	addr := routerAddr()
	evil(t, addr, false, func(q []byte) [][]byte {
		return [][]byte{granted(q, func(a *pcp.Answer) { a.Lifetime = 1 << 31 * time.Second })}
	})
	c := run(t, portmap.Config{Protocols: portmap.PCP}, addr)
	c.SetPort(41820)
	if m := c.await("obtained", present); time.Until(m.Expires) > 24*time.Hour+time.Second {
		t.Errorf("expires in %v", time.Until(m.Expires))
	}
}

// A device that names a description elsewhere is not followed there: anybody in the
// network could have us ask anybody else.
func TestDescriptionElsewhere(t *testing.T) {
	addr, victim := routerAddr(), routerAddr()
	l, err := net.Listen("tcp4", netip.AddrPortFrom(victim, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	connected := make(chan struct{}, 1)
	go func() {
		if conn, err := l.Accept(); err == nil {
			conn.Close()
			connected <- struct{}{}
		}
	}()
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, ssdp.Port)))
	if err != nil {
		t.Fatal(err)
	}
	asked, done := make(chan struct{}, 100), make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 2048)
		for {
			_, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = conn.WriteToUDPAddrPort(ssdp.AppendResponse(nil, ssdp.Message{
				Target: ssdp.Gateway, USN: "uuid:evil", Location: "http://" + l.Addr().String() + "/device.xml",
			}), from)
			asked <- struct{}{}
		}
	}()
	defer func() { conn.Close(); <-done }()
	c := run(t, portmap.Config{Protocols: portmap.UPnP}, addr)
	c.SetPort(41820)
	<-asked
	select {
	case <-connected:
		t.Error("the client connected to what the device named")
	case <-time.After(500 * time.Millisecond):
	}
	if m, ok := c.Mapping(); ok {
		t.Errorf("mapping %+v", m)
	}
}
