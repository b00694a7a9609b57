package netmon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

const running = net.FlagUp | net.FlagRunning

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestInterfacesHoldLoopback(t *testing.T) {
	m, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	list, err := m.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range list {
		if i.IsLoopback() && i.IsUp() && len(i.Addrs) > 0 {
			return
		}
	}
	t.Errorf("no loopback with an address in %v", list)
}

func TestContainerNames(t *testing.T) {
	for name, want := range map[string]bool{
		"veth12ab": true, "docker0": true, "br-5e1f": true, "cali77": true,
		"eth0": false, "wlan0": false, "br0": false, "enp3s0": false, "nodetun0": false,
	} {
		if got := containerName(name); got != want {
			t.Errorf("containerName(%q) = %v", name, got)
		}
	}
}

// fakeSource is a host whose state the test sets.
type fakeSource struct {
	trigger chan struct{} // the network may have changed
	clock   chan struct{} // the clock was set
	tells   bool          // that it was
	closed  chan struct{}

	mu      sync.Mutex // guards the fields below
	list    []Interface
	defr    []route
	looks   int
	failing bool
}

func newFakeSource() *fakeSource {
	return &fakeSource{trigger: make(chan struct{}), clock: make(chan struct{}), closed: make(chan struct{})}
}

func (f *fakeSource) tellsClock() bool { return f.tells }

func (f *fakeSource) set(list ...Interface) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = list
}

func (f *fakeSource) fail(failing bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failing = failing
}

func (f *fakeSource) looked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.looks
}

func (f *fakeSource) wait() error {
	select {
	case <-f.trigger:
		return nil
	case <-f.closed:
		return os.ErrClosed
	}
}

func (f *fakeSource) interfaces() ([]Interface, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks++
	if f.failing {
		return nil, errors.New("the kernel is busy")
	}
	return append([]Interface(nil), f.list...), nil
}

func (f *fakeSource) waitClock() error {
	select {
	case <-f.clock:
		return nil
	case <-f.closed:
		return os.ErrClosed
	}
}

func (f *fakeSource) asleep() time.Duration { return 0 }

func (f *fakeSource) routes() ([]route, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]route(nil), f.defr...), nil
}

func (f *fakeSource) path(_, _ netip.Addr) (from netip.Addr, link int, ok bool) {
	return from, 0, false
}

func (f *fakeSource) kind(int) string { return "" }

func (f *fakeSource) Close() error { close(f.closed); return nil }

// A burst of triggers is one look, and a look that finds nothing new is no
// change.
func TestBurstIsOneLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newFakeSource()
		m := newMonitor(Config{}, src)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		synctest.Wait()
		first := src.looked()
		for range 20 {
			src.trigger <- struct{}{}
		}
		time.Sleep(defaultDebounce + time.Millisecond)
		synctest.Wait()
		if n := src.looked() - first; n != 1 {
			t.Errorf("%d looks for one burst", n)
		}
		select {
		case <-m.Changed():
			t.Error("a change without a difference")
		default:
		}

		src.set(Interface{Name: "eth0", Index: 2, Flags: running})
		src.trigger <- struct{}{}
		<-m.Changed()

		src.set() // found by the comparison from time to time, without a trigger
		<-m.Changed()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// fakeClock is a clock that the test moves on its own.
type fakeClock struct {
	start time.Time
	mu    sync.Mutex // guards add
	add   clocks
}

func (f *fakeClock) read() clocks {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	return clocks{
		running: now.Sub(f.start) + f.add.running, asleep: f.add.asleep,
		wall: now.Add(f.add.running + f.add.asleep + time.Duration(f.add.wall.UnixNano())),
	}
}

// move lets time pass: while running, in sleep, and on the wall alone.
func (f *fakeClock) move(running, asleep, wall time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.add.running += running
	f.add.asleep += asleep
	f.add.wall = f.add.wall.Add(wall)
}

func TestSleep(t *testing.T) {
	for _, c := range []struct {
		name                  string
		running, asleep, wall time.Duration
		trigger, want         bool
	}{
		{name: "nothing"},
		{name: "suspended, the kernel tells", asleep: 10 * time.Minute, trigger: true, want: true},
		{name: "suspended, seen by a tick", asleep: 3 * time.Second, want: true},
		{name: "a moment", asleep: 500 * time.Millisecond, trigger: true},
		{name: "stopped for 10 minutes", running: 10 * time.Minute, want: true},
		{name: "stopped for 7 seconds", running: 7 * time.Second, want: true},
		{name: "busy for 2 seconds", running: 2 * time.Second},
		{name: "virtual machine paused, clock set later", wall: time.Hour, trigger: true, want: true},
		{name: "clock corrected", wall: time.Second, trigger: true},
		{name: "clock set back", wall: -time.Hour, trigger: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := newFakeSource()
				m := newMonitor(Config{}, src)
				clock := &fakeClock{start: time.Now(), add: clocks{wall: time.Unix(0, 0)}}
				m.clock = clock.read
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- m.Run(ctx) }()
				time.Sleep(time.Minute + time.Second/2) // half way between ticks
				clock.move(c.running, c.asleep, c.wall)
				began := time.Now()
				if c.trigger {
					src.clock <- struct{}{}
				}
				select {
				case e := <-m.Changed():
					if !c.want || e != (Event{Slept: true}) {
						t.Errorf("event %+v", e)
					}
					if took := time.Since(began); took > tick || c.trigger && took > 0 {
						t.Errorf("noticed after %v", took)
					}
				case <-time.After(time.Hour):
					if c.want {
						t.Error("not noticed")
					}
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// Where the system tells of a sleep the clocks are read once a minute, and a stop of
// the process is noticed all the same.
func TestToldClocksAreReadRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newFakeSource()
		src.tells = true
		m := newMonitor(Config{}, src)
		clock := &fakeClock{start: time.Now(), add: clocks{wall: time.Unix(0, 0)}}
		reads := 0
		m.clock = func() clocks { reads++; return clock.read() }
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		time.Sleep(10*time.Minute + time.Second)
		synctest.Wait()
		if reads > 11 {
			t.Errorf("read %d times in 10 minutes", reads)
		}
		if looks := src.looked(); looks > 1 {
			t.Errorf("the state was looked at %d times though nothing was told", looks)
		}
		clock.move(0, time.Hour, 0)
		began := time.Now()
		src.clock <- struct{}{}
		if e := <-m.Changed(); e != (Event{Slept: true}) || time.Since(began) > 0 {
			t.Errorf("%+v after %v", e, time.Since(began))
		}
		clock.move(10*time.Minute, 0, 0)
		if e := <-m.Changed(); e != (Event{Slept: true}) {
			t.Errorf("stopped for 10 minutes: %+v", e)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestEventsAreJoined(t *testing.T) {
	m := newMonitor(Config{}, newFakeSource())
	for _, e := range []Event{{}, {Major: true}, {Slept: true}, {}} {
		m.tell(e)
	}
	if e := <-m.Changed(); e != (Event{Major: true, Slept: true}) {
		t.Errorf("joined to %+v", e)
	}
	m.tell(Event{})
	if e := <-m.Changed(); e != (Event{}) {
		t.Errorf("%+v remembers what was taken", e)
	}
}

// A state that cannot be read is no change; it is read again soon.
func TestReadFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newFakeSource()
		src.set(eth(2, "192.0.2.5/24"))
		m := newMonitor(Config{}, src)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		src.fail(true)
		src.trigger <- struct{}{}
		time.Sleep(time.Second)
		src.set()
		src.fail(false)
		select {
		case e := <-m.Changed():
			if !e.Major {
				t.Error("minor")
			}
		case <-time.After(2 * errorPause):
			t.Error("not read again")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// eth is an interface that runs.
func eth(index int, addrs ...string) Interface {
	i := Interface{Name: fmt.Sprint("eth", index), Index: index, Flags: running}
	for _, a := range addrs {
		i.Addrs = append(i.Addrs, netip.MustParsePrefix(a))
	}
	return i
}

func TestLost(t *testing.T) {
	via := func(metric, index int, gateway string) route {
		gw := netip.MustParseAddr(gateway)
		return route{is6: gw.Is6(), metric: metric, index: index, gateway: gw}
	}
	type host struct {
		list []Interface
		defr []route
	}
	base := host{[]Interface{eth(2, "192.168.1.2/24", "2001:db8::2/64")}, []route{via(100, 2, "192.168.1.1")}}
	for _, c := range []struct {
		name  string
		now   host
		major bool
	}{
		{"the same", base, false},
		{"one more address", host{[]Interface{eth(2, "192.168.1.2/24", "192.168.1.3/24", "2001:db8::2/64")}, base.defr}, false},
		{"one more interface", host{[]Interface{base.list[0], eth(3, "10.0.0.2/8")}, base.defr}, false},
		{"one more route", host{base.list, []route{via(600, 2, "192.168.1.9"), base.defr[0]}}, false},
		{"a better route", host{base.list, []route{via(50, 2, "192.168.1.9"), base.defr[0]}}, true},
		{"an equal route", host{base.list, []route{base.defr[0], via(100, 2, "192.168.1.9")}}, true},
		{"worse metric", host{base.list, []route{via(200, 2, "192.168.1.1")}}, true},
		{"IPv6 route", host{base.list, []route{base.defr[0], via(1024, 2, "fe80::1")}}, true},
		{"longer network", host{[]Interface{eth(2, "192.168.1.2/16", "2001:db8::2/64")}, base.defr}, false},
		{"address gone", host{[]Interface{eth(2, "192.168.1.2/24")}, base.defr}, true},
		{"address moved", host{[]Interface{eth(2, "192.168.1.2/24"), eth(3, "2001:db8::2/64")}, base.defr}, true},
		{"all gone", host{}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := newFakeSource()
			m := newMonitor(Config{}, src)
			read := func(h host) state {
				src.list, src.defr = h.list, h.defr
				s, err := m.look()
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
			before, now := read(base), read(c.now)
			if got := now.lost(before); got != c.major {
				t.Errorf("major: %v", got)
			}
			if same := now.equal(before); same != (c.name == "the same") {
				t.Errorf("same: %v", same)
			}
		})
	}
}

// A link without carrier has no addresses for paths, yet they are ours.
func TestCarrierLost(t *testing.T) {
	src := newFakeSource()
	down := eth(2, "192.0.2.5/24")
	down.Flags = net.FlagUp
	src.set(down)
	m := newMonitor(Config{}, src)
	some, err := m.Interfaces()
	if err != nil || len(some) != 1 || len(some[0].Addrs) != 0 {
		t.Errorf("%v, %v", some, err)
	}
	all, err := m.AllInterfaces()
	if err != nil || len(all) != 1 || len(all[0].Addrs) != 1 {
		t.Errorf("%v, %v", all, err)
	}
}

func TestClosed(t *testing.T) {
	m, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Run(ctx); err != nil {
		t.Errorf("run after close: %v", err)
	}
}

// A change between New and Run is a change: who listed the interfaces after New
// must hear of it.
func TestChangeBeforeRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newFakeSource()
		src.trigger = make(chan struct{}, 1)
		src.set(Interface{Name: "eth0", Index: 2, Flags: running})
		m := newMonitor(Config{}, src)
		src.set(Interface{Name: "eth1", Index: 3, Flags: running})
		src.trigger <- struct{}{} // the socket was open already
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		select {
		case <-m.Changed():
		case <-time.After(time.Second):
			t.Error("the change was missed")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
