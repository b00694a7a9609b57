package netmon

import (
	"context"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodetun/nodetun/internal/nstest"
)

// TestNetnsChanges plays the life of a host: a cable, an address, a default
// route, and links that do not matter.
func TestNetnsChanges(t *testing.T) {
	ns := nstest.New(t, "netmon")
	var m *Monitor
	ns.Do(t, func() {
		var err error
		if m, err = New(Config{Debounce: 50 * time.Millisecond, Exclude: func(n string) bool { return n == "tun9" || strings.HasPrefix(n, "far") }}); err != nil {
			t.Fatal(err)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	const none, minor, major = 0, 1, 2
	for _, step := range []struct {
		name string
		argv string
		want int
	}{
		{"new link, down", "ip link add d0 type veth peer name far0", none},
		{"up without a cable", "ip link set d0 up", none},
		{"cable in", "ip link set far0 up", minor},
		{"first address", "ip addr add 192.0.2.5/24 dev d0", major},
		{"default route", "ip route add default via 192.0.2.1", major},
		{"second address", "ip addr add 192.0.2.6/24 dev d0", minor},
		{"worse default route", "ip route add default via 192.0.2.9 metric 500", minor},
		{"other route", "ip route add 198.51.100.0/24 via 192.0.2.1", none},
		{"default route of another table", "ip route add default via 192.0.2.7 table 77", none},
		{"unreachable default", "ip route add unreachable default metric 4000", none},
		{"default route moved", "ip route replace default via 192.0.2.2", major},
		{"cable out", "ip link set far0 down", major},
		{"cable in again", "ip link set far0 up", major},
		{"own tun", "ip link add tun9 type veth peer name far9", none},
		{"cable of own tun", "ip link set far9 up", none},
		{"own tun up", "ip link set tun9 up", none},
		{"address of own tun", "ip addr add 100.100.0.1/16 dev tun9", none},
		{"first IPv6 address", "ip addr add 2001:db8::5/64 dev d0 nodad", major},
		{"an address gone", "ip addr del 192.0.2.6/24 dev d0", major},
		{"link gone", "ip link del d0", major},
	} {
		t.Run(step.name, func(t *testing.T) {
			ns.Run(t, strings.Fields(step.argv)...)
			if got := settle(m, step.want != none); got != (Event{Major: step.want == major}) && step.want != none {
				t.Errorf("event %+v", got)
			} else if got != (Event{}) && step.want == none {
				t.Errorf("event %+v for nothing", got)
			}
		})
	}
}

// settle joins the events of one step, whose parts may follow each other by a
// moment.
func settle(m *Monitor, expected bool) Event {
	var joined Event
	wait := 5 * time.Second
	if !expected {
		wait = 300 * time.Millisecond
	}
	for {
		select {
		case e := <-m.Changed():
			joined.Major, joined.Slept = joined.Major || e.Major, joined.Slept || e.Slept
			wait = 150 * time.Millisecond
		case <-time.After(wait):
			return joined
		}
	}
}

// TestNetnsGateway asks for the router while default routes come and go.
func TestNetnsGateway(t *testing.T) {
	ns := nstest.New(t, "netgw")
	var m *Monitor
	ns.Do(t, func() {
		var err error
		if m, err = New(Config{Exclude: func(n string) bool { return strings.HasPrefix(n, "far") || n == "tun9" }}); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { m.Close() })
	for _, name := range []string{"d0", "d1", "tun9"} {
		ns.Run(t, strings.Fields("ip link add "+name+" type veth peer name far"+name)...)
		ns.Run(t, strings.Fields("ip link set far"+name+" up")...)
		ns.Run(t, strings.Fields("ip link set "+name+" up")...)
	}
	for _, step := range []struct {
		argv string
		want Gateway // zero: none
	}{
		{"ip addr add 10.9.0.2/24 dev d0", Gateway{}},
		{"ip addr add 192.168.1.20/24 dev d0", Gateway{}},
		{"ip addr add 192.168.2.20/24 dev d1", Gateway{}},
		{"ip addr add 100.100.0.1/16 dev tun9", Gateway{}},
		{"ip route add default via 192.168.2.1 metric 600", Gateway{addr("192.168.2.1"), addr("192.168.2.20"), "d1"}},
		{"ip route add default via 192.168.1.1 metric 100", Gateway{addr("192.168.1.1"), addr("192.168.1.20"), "d0"}},
		{"ip route change default via 192.168.1.1 src 10.9.0.2 metric 100", Gateway{addr("192.168.1.1"), addr("10.9.0.2"), "d0"}},
		{"ip route add default via 100.100.0.2", Gateway{addr("192.168.1.1"), addr("10.9.0.2"), "d0"}},
		{"ip link set fard0 down", Gateway{addr("192.168.2.1"), addr("192.168.2.20"), "d1"}},
		{"ip route add default dev d1 metric 10", Gateway{}},
		{"ip link del d1", Gateway{}},
	} {
		ns.Run(t, strings.Fields(step.argv)...)
		got, ok := m.Gateway()
		if got != step.want || ok != (step.want != Gateway{}) {
			t.Errorf("after %s: %v, %v; want %v", step.argv, got, ok, step.want)
		}
	}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// The kernel tells when the clock is set. Setting it to what it shows already is
// enough, but makes the kernel forget how well it is synchronised: only on
// request.
func TestNetnsClockSet(t *testing.T) {
	nstest.RequireRoot(t)
	if os.Getenv("NODETUN_TEST_SET_CLOCK") == "" {
		t.Skip("sets the clock of the machine: run with NODETUN_TEST_SET_CLOCK=1")
	}
	src, err := newSource(0)
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan error, 1)
	go func() { told <- src.waitClock() }()
	deadline := time.After(5 * time.Second)
	for {
		var now unix.Timeval
		if err := unix.Gettimeofday(&now); err != nil {
			t.Fatal(err)
		}
		if err := unix.Settimeofday(&now); err != nil {
			src.Close()
			<-told
			t.Skip("the clock of this machine cannot be set:", err)
		}
		select {
		case err := <-told:
			if err != nil {
				t.Error(err)
			}
			src.Close()
			return
		case <-deadline:
			t.Fatal("not told")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// An answer names its source where the kernel would choose another one, and only if it
// then leaves by the link that the question came by.
func TestNetnsMustName(t *testing.T) {
	a, b := nstest.New(t, "a"), nstest.New(t, "b")
	first, _ := nstest.Veth(t, a, "10.1.0.1/24", b, "10.1.0.2/24")
	second, _ := nstest.Veth(t, a, "10.2.0.1/24", b, "10.2.0.2/24")
	a.Run(t, "ip", "addr", "add", "10.1.0.100/32", "dev", first)
	a.Run(t, "ip", "addr", "add", "2001:db8::5/64", "dev", first, "nodad")
	a.Run(t, "ip", "addr", "add", "2001:db8::6/64", "dev", first, "nodad")
	a.Run(t, "ip", "route", "add", "default", "via", "10.1.0.2")
	var m *Monitor
	index := make(map[string]int)
	a.Do(t, func() {
		var err error
		if m, err = New(Config{}); err != nil {
			t.Fatal(err)
		}
		list, err := m.AllInterfaces()
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range list {
			index[i.Name] = i.Index
		}
	})
	t.Cleanup(func() { m.Close() })
	check := func(remote, local, link string, want bool) {
		t.Helper()
		if got := m.MustName(addr(remote), addr(local), index[link]); got != want {
			t.Errorf("%s at %s by %s: %v", remote, local, link, got)
		}
	}
	check("192.0.2.9", "10.1.0.1", first, false)  // the kernel's choice
	check("192.0.2.9", "10.1.0.100", first, true) // a floating address
	check("192.0.2.9", "10.2.0.1", second, false) // it would leave by the first link all the same
	check("10.2.0.2", "10.1.0.100", second, true) // the floating address, asked from the other link
	if six := m.MustName(addr("2001:db8::9"), addr("2001:db8::5"), index[first]); six == m.MustName(addr("2001:db8::9"), addr("2001:db8::6"), index[first]) {
		t.Errorf("both addresses of a link: %v", six)
	}
	a.Run(t, "ip", "route", "add", "default", "via", "10.2.0.2", "table", "7")
	a.Run(t, "ip", "rule", "add", "from", "10.2.0.1", "table", "7")
	check("192.0.2.9", "10.2.0.1", second, true) // a second uplink, with rules
}
