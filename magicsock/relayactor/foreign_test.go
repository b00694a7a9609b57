package relayactor

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodetun/nodetun/identity"
	"github.com/nodetun/nodetun/relay/relayserver"
)

// S10: which URLs of strangers may be dialled at all.
func TestForeignURLs(t *testing.T) {
	for _, test := range []struct {
		url string
		ok  bool
	}{
		{"https://relay.example", true},
		{"https://relay.example:8443/path", true},
		{"https://192.0.2.1", true}, // its address is judged when it connects
		{"http://relay.example", false},
		{"https://localhost", false},
		{"https://LOCALHOST.:443", false},
		{"https://a.localhost", false},
		{"https://user@relay.example", false},
		{"https://user:word@relay.example", false},
		{"https://relay.example/?a=b", false},
		{"https://relay.example/#a", false},
		{"https://relay.example/" + strings.Repeat("a", 255), false},
	} {
		url, err := identity.ParseRelayURL(test.url)
		if err != nil {
			if test.ok {
				t.Errorf("%s: %v", test.url, err)
			}
			continue // refused even earlier
		}
		if err := checkForeignURL(url); (err == nil) != test.ok || err != nil && !errors.Is(err, ErrForeign) {
			t.Errorf("%s: %v", test.url, err)
		}
	}
}

// S10: a stranger's name may resolve to anything; where it leads is judged when
// the socket connects.
func TestForeignAddresses(t *testing.T) {
	a := New(Config{TunPrefixes: []netip.Prefix{netip.MustParsePrefix("fd6e:6f64:6574::/48"), netip.MustParsePrefix("100.100.0.0/16")}})
	for address, ok := range map[string]bool{
		"192.0.2.1:443":                     true,
		"[2001:db8::1]:443":                 true,
		"10.0.0.1:443":                      true, // a relay of the own house
		"127.0.0.1:443":                     false,
		"[::1]:443":                         false,
		"[::ffff:127.0.0.1]:443":            false,
		"169.254.169.254:80":                false,
		"[fe80::1%eth0]:443":                false,
		"0.0.0.0:443":                       false,
		"[::]:443":                          false,
		"224.0.0.1:443":                     false,
		"255.255.255.255:443":               false,
		"100.100.7.7:443":                   false,
		"[fd6e:6f64:6574:1:2:3:4:5]:443":    false,
		"[::ffff:100.100.7.7]:443":          false,
		"relay.example:443":                 false,
		"[fd6e:6f64:6575:1:2:3:4:5]:443":    true,
		"[fd15:70a:510b:1:2:3:4:5]:443":     true,
		"[ff02::1]:443":                     false,
		"[2001:db8::1]":                     false,
		"[fd6e:6f64:6574:1:2:3:4:5%x]:8443": false,
	} {
		err := a.control(true)("tcp", address, nil)
		if (err == nil) != ok {
			t.Errorf("%s: %v", address, err)
		}
	}
	if a.control(false) != nil {
		t.Error("configured relays are judged")
	}
}

// S10: packets for many relays open at most one connection a second and eight
// in all.
func TestForeignLimits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		world := newNetwork(t) // nobody answers
		n := startNode(t, Config{Dial: world.dial})
		send := func(i int) bool {
			return n.Send(mustURL(t, fmt.Sprintf("https://relay%d.example", i)), identity.NodeID{1}, []byte("x"), 1200)
		}
		taken := 0
		for i := range 100 {
			if send(i) {
				taken++
			}
		}
		if taken != 1 {
			t.Errorf("%d at once", taken)
		}
		for i := range 30 {
			time.Sleep(time.Second)
			if send(100 + i) {
				taken++
			}
		}
		if taken != maxForeign || len(n.Status()) != maxForeign {
			t.Errorf("%d in half a minute, %d links", taken, len(n.Status()))
		}
		if c := n.Counters(); c.Refused != 130-maxForeign || c.Dropped != c.Refused {
			t.Errorf("%+v", c)
		}
		// Links without use go, and make room.
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if len(n.Status()) != 0 || !send(1000) {
			t.Errorf("%+v", n.Status())
		}
	})
}

// S10: http is for configured relays, and nothing is dialled for strangers.
func TestForeignRefusals(t *testing.T) {
	bubble(t, func(t *testing.T) {
		world := newNetwork(t)
		world.addRelay("own.example.:80", relayserver.Access{})
		own := mustURL(t, "http://own.example")
		friend := identity.NodeID{1}
		n := startNode(t, Config{
			Configured: []identity.RelayURL{own}, Dial: world.dial,
			Admit: func(id identity.NodeID) bool { return id == friend },
		})
		for url, want := range map[identity.RelayURL]bool{
			own:                              true,
			mustURL(t, "http://foreign.exa"): false,
			{}:                               false,
		} {
			if got := n.Send(url, friend, []byte("x"), 1200); got != want {
				t.Errorf("%q: %v", url, got)
			}
		}
		if n.Send(mustURL(t, "https://foreign.exa"), identity.NodeID{2}, []byte("x"), 1200) {
			t.Error("a relay is dialled for a stranger")
		}
		synctest.Wait()
		if len(world.dials()) != 1 {
			t.Errorf("%d dials", len(world.dials()))
		}
	})
}
