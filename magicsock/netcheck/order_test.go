package netcheck

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay"
)

func apPort(port int) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("198.51.100.7"), uint16(port))
}

// relays makes a Checker of the relays a, b, c and d.
func relays(t *testing.T) (*Checker, map[string]identity.RelayURL) {
	t.Helper()
	urls := make(map[string]identity.RelayURL)
	var cfg Config
	for _, name := range []string{"a", "b", "c", "d"} {
		url, err := identity.ParseRelayURL("https://" + name + ".example")
		if err != nil {
			t.Fatal(err)
		}
		urls[name] = url
		cfg.Relays = append(cfg.Relays, relay.Node{URL: url})
	}
	cfg.Relays = append(cfg.Relays, relay.Node{URL: urls["a"], STUNOnly: true})
	return New(cfg), urls
}

// measured plays the end of a run.
func (c *Checker) measured(at time.Time, latencies map[identity.RelayURL]time.Duration) *Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &Report{At: at}
	for _, n := range c.cfg.Relays {
		if !n.STUNOnly {
			r.Relays = append(r.Relays, RelayLatency{URL: n.URL, HTTPS: latencies[n.URL]})
		}
	}
	c.remember(r.Relays, at)
	r.Preferred = c.prefer(r)
	c.last = r
	return r
}

func order(c *Checker, down func(identity.RelayURL) bool) string {
	var names []string
	for _, url := range c.Order(down) {
		names = append(names, url.Parsed().Hostname()[:1])
	}
	return strings.Join(names, "")
}

func TestOrder(t *testing.T) {
	c, urls := relays(t)
	if got := order(c, nil); got != "abcd" {
		t.Fatal("before any report:", got)
	}
	now := time.Now()
	type ms3 = map[identity.RelayURL]time.Duration
	step := func(name string, at time.Time, l ms3, preferred, want string) {
		t.Helper()
		r := c.measured(at, l)
		if r.Preferred != urls[preferred] {
			t.Fatalf("%s: prefers %v", name, r.Preferred)
		}
		if got := order(c, nil); got != want {
			t.Fatalf("%s: order %s", name, got)
		}
	}
	step("first", now, ms3{urls["b"]: 90 * ms, urls["c"]: 100 * ms}, "b", "bcad")
	step("a little faster", now, ms3{urls["b"]: 90 * ms, urls["c"]: 61 * ms}, "b", "bcad")
	step("a third faster", now, ms3{urls["b"]: 90 * ms, urls["c"]: 60 * ms}, "c", "cbad")
	step("a spike of the preferred one", now, ms3{urls["b"]: 90 * ms, urls["c"]: 900 * ms}, "c", "cbad")
	step("the preferred one is gone", now, ms3{urls["b"]: 90 * ms}, "b", "bcad")
	step("all are gone", now, nil, "", "bcad")
	if got := order(c, func(u identity.RelayURL) bool { return u == urls["b"] || u == urls["a"] }); got != "cdab" {
		t.Fatal("down:", got)
	}
	if n := len(c.Order(nil)); n != 4 {
		t.Fatal(n)
	}
}

func TestLatenciesAge(t *testing.T) {
	c, urls := relays(t)
	now := time.Now()
	c.measured(now, map[identity.RelayURL]time.Duration{urls["a"]: 10 * ms, urls["b"]: 20 * ms})
	later := now.Add(historyTime + time.Second)
	if r := c.measured(later, map[identity.RelayURL]time.Duration{urls["a"]: 100 * ms, urls["b"]: 50 * ms}); r.Preferred != urls["b"] {
		t.Fatal(r.Preferred)
	}
	for range 10 * maxSamples {
		c.measured(later, map[identity.RelayURL]time.Duration{urls["a"]: 100 * ms})
	}
	if n := len(c.history[urls["a"]]); n > maxSamples {
		t.Fatal(n)
	}
}

// What a run proves by TLS outweighs a strange page by HTTP.
func TestPortalThatLetsThrough(t *testing.T) {
	c, _ := relays(t)
	u := &run{c: c, tls: true, r: Report{CaptivePortal: True}, began: time.Now(), enough: make(chan struct{})}
	if r := u.end(false); !r.CaptivePortal.IsFalse() {
		t.Fatal(r.CaptivePortal)
	}
}
