package netcheck

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// Each of these answers is a lie, or one that nobody asked for: the address must
// not be believed, and the honest answer that follows must.
func TestForgedAnswers(t *testing.T) {
	server, own, lie := ap("192.0.2.1:3478"), ap("198.51.100.7:1000"), ap("203.0.113.66:666")
	tests := map[string]func(c *Checker, request []byte, tx txID){
		"from another host":   func(c *Checker, _ []byte, tx txID) { c.HandleSTUN(success(tx, lie), ap("192.0.2.2:3478")) },
		"from another port":   func(c *Checker, _ []byte, tx txID) { c.HandleSTUN(success(tx, lie), ap("192.0.2.1:3479")) },
		"with another id":     func(c *Checker, _ []byte, tx txID) { tx[0]++; c.HandleSTUN(success(tx, lie), server) },
		"loopback":            func(c *Checker, _ []byte, tx txID) { c.HandleSTUN(success(tx, ap("127.0.0.1:5")), server) },
		"multicast":           func(c *Checker, _ []byte, tx txID) { c.HandleSTUN(success(tx, ap("224.0.0.1:5")), server) },
		"zero address":        func(c *Checker, _ []byte, tx txID) { c.HandleSTUN(success(tx, ap("0.0.0.0:5")), server) },
		"zero port":           func(c *Checker, _ []byte, tx txID) { c.HandleSTUN(success(tx, ap("203.0.113.66:0")), server) },
		"of the other family": func(c *Checker, _ []byte, tx txID) { c.HandleSTUN(success(tx, ap("[2001:db8::6]:6")), server) },
		"the request itself":  func(c *Checker, request []byte, _ txID) { c.HandleSTUN(request, server) },
		"cut off":             func(c *Checker, _ []byte, tx txID) { c.HandleSTUN(success(tx, lie)[:22], server) },
		"too long": func(c *Checker, _ []byte, tx txID) {
			c.HandleSTUN(append(success(tx, lie), make([]byte, 2000)...), server)
		},
		"the answer to the last": nil,
	}
	for name, forge := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				s := f.serve(server.String(), own.String(), 0)
				var before txID
				s.reply = func(b []byte, tx txID) {
					if forge != nil {
						forge(f.checker, b, tx)
					} else {
						f.checker.HandleSTUN(success(before, lie), server)
					}
					before = tx
					time.AfterFunc(20*ms, func() { f.checker.HandleSTUN(success(tx, own), server) })
				}
				f.start()
				for range 2 {
					if r := f.report(t, false); r.GlobalV4 != own || len(r.Mapped) != 1 || r.Took != 20*ms {
						t.Fatalf("%+v", r)
					}
				}
			})
		})
	}
}

// Only the first of several answers to one request counts.
func TestAnswerTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		server, own := ap("192.0.2.1:3478"), ap("198.51.100.7:1000")
		s := f.serve(server.String(), own.String(), 0)
		f.serve("192.0.2.2:3478", own.String(), 30*ms)
		s.reply = func(_ []byte, tx txID) {
			f.checker.HandleSTUN(success(tx, own), server)
			f.checker.HandleSTUN(success(tx, ap("203.0.113.66:666")), server)
		}
		f.start()
		if r := f.report(t, false); r.GlobalV4 != own || len(r.Mapped) != 2 || !r.MappingVariesV4.IsFalse() {
			t.Fatalf("%+v", r)
		}
	})
}

// A stranger who sees nothing of our packets cannot make us believe in hairpins.
func TestForgedHairpin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.serve("192.0.2.1:3478", "198.51.100.7:1000", 10*ms)
		f.start()
		time.AfterFunc(50*ms, func() {
			_, b, _ := bindingRequest()
			f.checker.HandleSTUN(b, ap("198.51.100.7:1000"))
		})
		if r := f.report(t, true); !r.Hairpin.IsFalse() {
			t.Fatalf("%+v", r)
		}
	})
}

// What nobody asked for costs nothing and is not kept.
func TestForeignPackets(t *testing.T) {
	c := newFake().start()
	b := success(txID{9}, ap("203.0.113.66:666"))
	from := ap("203.0.113.66:3478")
	flood := func() {
		for i := range 50_000 {
			b[8], b[9], b[10] = byte(i), byte(i>>8), byte(i>>16)
			c.HandleSTUN(b, from)
		}
	}
	if n := testing.AllocsPerRun(1, flood); n != 0 {
		t.Errorf("%v allocations", n)
	}
	// Nor while something is in flight.
	tx, _, ok := c.launch(ap("192.0.2.1:3478"), false, make(chan answer, 1))
	if n := testing.AllocsPerRun(1, flood); n != 0 || !ok {
		t.Errorf("%v allocations", n)
	}
	if c.land(tx); len(c.inflight) != 0 || c.Last() != nil {
		t.Error("something was kept")
	}
}

func TestBounds(t *testing.T) {
	c := newFake().start()
	for i := range 2 * maxInflight {
		if _, _, ok := c.launch(ap("192.0.2.1:3478"), false, nil); ok != (i < maxInflight) {
			t.Fatal(i, ok)
		}
	}
	now := time.Now()
	for i := range 1000 {
		peer := netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)})
		c.Observe(netip.AddrPortFrom(peer, 1), ap("198.51.100.7:1"), now)
		c.Observe(netip.AddrPortFrom(peer, 2), ap("198.51.100.7:1"), now)
	}
	if len(c.observed) != maxObserved {
		t.Fatal(len(c.observed))
	}
	for _, o := range [][2]string{
		{"10.0.0.1:1", "198.51.100.7:9"},
		{"203.0.113.1:1", "192.168.0.1:9"},
		{"127.0.0.1:1", "198.51.100.7:9"},
		{"100.64.0.1:1", "198.51.100.7:9"},
		{"[fe80::1]:1", "[2001:db8::1]:9"},
		{"203.0.113.1:1", "198.51.100.7:0"},
		{"224.0.0.1:1", "198.51.100.7:9"},
		{"[::ffff:10.0.0.1]:1", "198.51.100.7:9"},
	} {
		before := c.observed[len(c.observed)-1]
		if c.Observe(ap(o[0]), ap(o[1]), now); c.observed[len(c.observed)-1] != before {
			t.Errorf("%v counts", o)
		}
	}
	var none netip.AddrPort
	c.Observe(none, none, now)
}

// One peer that lies changes nothing that two servers agree on.
func TestLyingPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.serve("192.0.2.1:3478", "198.51.100.7:1000", 10*ms)
		f.serve("192.0.2.2:3478", "198.51.100.7:1000", 10*ms)
		f.start()
		for range 2 {
			f.checker.Observe(ap("203.0.113.1:1"), ap("198.51.100.7:9"), time.Now())
			if r := f.report(t, false); !r.MappingVariesV4.IsFalse() || r.PortDelta != 0 {
				t.Fatalf("%+v", r)
			}
		}
	})
}
