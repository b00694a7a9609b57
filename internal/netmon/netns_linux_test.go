package netmon

import (
	"context"
	"strings"
	"testing"
	"time"

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
	for _, step := range []struct {
		name   string
		argv   []string
		change bool
	}{
		{"new link, down", []string{"ip", "link", "add", "d0", "type", "veth", "peer", "name", "far0"}, false},
		{"link up", []string{"ip", "link", "set", "d0", "up"}, true},
		{"address", []string{"ip", "addr", "add", "192.0.2.5/24", "dev", "d0"}, true},
		{"default route", []string{"ip", "route", "add", "default", "via", "192.0.2.1"}, true},
		{"other route", []string{"ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.1"}, false},
		{"own tun", []string{"ip", "link", "add", "tun9", "type", "veth", "peer", "name", "far9"}, false},
		{"own tun up", []string{"ip", "link", "set", "tun9", "up"}, false},
		{"address of own tun", []string{"ip", "addr", "add", "100.100.0.1/16", "dev", "tun9"}, false},
		{"address gone", []string{"ip", "addr", "del", "192.0.2.5/24", "dev", "d0"}, true},
	} {
		t.Run(step.name, func(t *testing.T) {
			ns.Run(t, step.argv...)
			wait := 5 * time.Second
			if !step.change {
				wait = 300 * time.Millisecond
			}
			select {
			case <-m.Changed():
				if !step.change {
					t.Error("reported")
				}
			case <-time.After(wait):
				if step.change {
					t.Error("not reported")
				}
			}
			// The route of an address follows it by a moment.
			select {
			case <-m.Changed():
			case <-time.After(150 * time.Millisecond):
			}
		})
	}
}
