package netmon

import (
	"context"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

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
		if got := Container(name); got != want {
			t.Errorf("Container(%q) = %v", name, got)
		}
	}
}

// fakeSource is a host whose state the test sets.
type fakeSource struct {
	trigger chan struct{}
	closed  chan struct{}

	mu    sync.Mutex // guards the fields below
	list  []Interface
	looks int
}

func (f *fakeSource) set(list ...Interface) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = list
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
	return append([]Interface(nil), f.list...), nil
}
func (f *fakeSource) routes() ([]route, error) { return nil, nil }
func (f *fakeSource) Close() error             { close(f.closed); return nil }

// A burst of triggers is one look, and a look that finds nothing new is no
// change.
func TestBurstIsOneLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{trigger: make(chan struct{}), closed: make(chan struct{})}
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

		src.set(Interface{Name: "eth0", Index: 2, Flags: net.FlagUp})
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
		src := &fakeSource{trigger: make(chan struct{}, 1), closed: make(chan struct{})}
		src.set(Interface{Name: "eth0", Index: 2, Flags: net.FlagUp})
		m := newMonitor(Config{}, src)
		src.set(Interface{Name: "eth1", Index: 3, Flags: net.FlagUp})
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
