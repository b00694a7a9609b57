package netcheck

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const ms = time.Millisecond

func TestReports(t *testing.T) {
	own := "198.51.100.7:41820"
	tests := []struct {
		name  string
		setup func(t *testing.T, f *fakeNet)
		quick bool
		most  time.Duration // that it may take
		check func(t *testing.T, r *Report)
	}{
		{"two servers agree", func(t *testing.T, f *fakeNet) {
			f.serve("192.0.2.1:3478", own, 20*ms)
			f.serve("192.0.2.2:3478", own, 30*ms)
		}, true, 31 * ms, func(t *testing.T, r *Report) {
			if !r.UDP || !r.IPv4 || r.IPv6 || r.GlobalV4 != ap(own) || !r.MappingVariesV4.IsFalse() || r.NAT(nil) != NATEasy {
				t.Fatalf("%+v", r)
			}
			if len(r.Mapped) != 2 || r.Mapped[0].Latency != 20*ms || !r.CanSendV4 || r.CanSendV6 || r.MappingVariesV6 != Unknown {
				t.Fatalf("%+v", r)
			}
		}},
		{"two servers differ", func(t *testing.T, f *fakeNet) {
			f.serve("192.0.2.1:3478", "198.51.100.7:1000", 20*ms)
			f.serve("192.0.2.2:3478", "198.51.100.7:3000", 30*ms)
		}, true, 31 * ms, func(t *testing.T, r *Report) {
			if !r.MappingVariesV4.IsTrue() || r.NAT(nil) != NATHard || r.GlobalV4 != ap("198.51.100.7:1000") || r.PortDelta != 0 {
				t.Fatalf("%+v", r)
			}
		}},
		{"one server", func(t *testing.T, f *fakeNet) {
			f.serve("192.0.2.1:3478", own, 20*ms)
		}, true, 21 * ms, func(t *testing.T, r *Report) {
			if r.MappingVariesV4 != Unknown || r.NAT(nil) != NATUnknown {
				t.Fatalf("%+v", r)
			}
		}},
		{"one server by two ports", func(t *testing.T, f *fakeNet) {
			f.serve("192.0.2.1:3478", own, 20*ms)
			f.serve("192.0.2.1:3479", own, 20*ms)
		}, true, 21 * ms, func(t *testing.T, r *Report) {
			if r.MappingVariesV4 != Unknown {
				t.Fatalf("%+v", r)
			}
		}},
		{"slow one is not waited for", func(t *testing.T, f *fakeNet) {
			f.serve("192.0.2.1:3478", own, 20*ms)
			f.serve("192.0.2.2:3478", own, 30*ms)
			f.serve("192.0.2.3:3478", "", 0)
		}, true, 30*ms + minSTUNWait, func(t *testing.T, r *Report) {
			if !r.MappingVariesV4.IsFalse() {
				t.Fatalf("%+v", r)
			}
		}},
		{"a full one waits longer", func(t *testing.T, f *fakeNet) {
			f.serve("192.0.2.1:3478", own, 20*ms)
			f.serve("192.0.2.2:3478", own, 30*ms)
			f.serve("192.0.2.3:3478", own, 900*ms).lose = 1
		}, false, 3500 * ms, func(t *testing.T, r *Report) {
			if len(r.Mapped) != 3 {
				t.Fatalf("%+v", r)
			}
		}},
		{"loss", func(t *testing.T, f *fakeNet) {
			f.serve("192.0.2.1:3478", own, 20*ms).lose = 2
			f.serve("192.0.2.2:3478", own, 20*ms).lose = 1
		}, true, 600 * ms, func(t *testing.T, r *Report) {
			if len(r.Mapped) != 2 || r.Mapped[0].Latency != 20*ms || r.Mapped[1].Latency != 20*ms {
				t.Fatalf("%+v", r)
			}
		}},
		{"no server answers", func(t *testing.T, f *fakeNet) {
			f.serve("192.0.2.1:3478", "", 0)
		}, false, 2001 * ms, func(t *testing.T, r *Report) {
			if r.UDP || r.NAT(nil) != NATBlocked || !r.CanSendV4 {
				t.Fatalf("%+v", r)
			}
		}},
		{"nobody to ask", func(*testing.T, *fakeNet) {}, true, 0, func(t *testing.T, r *Report) {
			if r.UDP || r.Asked || r.NAT(nil) != NATUnknown {
				t.Fatalf("%+v", r)
			}
		}},
		{"UDP is blocked", func(t *testing.T, f *fakeNet) {
			f.relay(t, "far.example", "192.0.2.1", "", 10*ms)
			f.relay(t, "near.example", "192.0.2.2", "", 10*ms)
			f.web["far.example:80"] = func(w http.ResponseWriter, r *http.Request) {
				<-time.After(50 * ms)
				relayPages(w, r)
			}
		}, true, 2001 * ms, func(t *testing.T, r *Report) {
			if r.UDP || r.NAT(nil) != NATBlocked || r.Relays[0].HTTPS != 60*ms || r.Relays[1].HTTPS != 10*ms {
				t.Fatalf("%+v", r)
			}
			if r.Preferred != r.Relays[1].URL || r.Relays[0].Err != "" {
				t.Fatalf("%+v", r)
			}
		}},
		{"sending is refused", func(t *testing.T, f *fakeNet) {
			f.serve("192.0.2.1:3478", own, 10*ms)
			f.refuse4 = true
		}, true, 0, func(t *testing.T, r *Report) {
			if r.UDP || r.CanSendV4 || !r.Asked {
				t.Fatalf("%+v", r)
			}
		}},
		{"IPv6 only", func(t *testing.T, f *fakeNet) {
			f.cfg.HaveV4, f.cfg.HaveV6 = func() bool { return false }, nil
			f.serve("[2001:db8::1]:3478", "[2001:db8:7::7]:41820", 20*ms)
			f.serve("[2001:db8::2]:3478", "[2001:db8:7::7]:41820", 20*ms)
			f.serve("192.0.2.3:3478", own, 20*ms)
		}, false, 21 * ms, func(t *testing.T, r *Report) {
			if !r.UDP || r.IPv4 || !r.IPv6 || r.CanSendV4 || !r.MappingVariesV6.IsFalse() || r.Hairpin != Unknown {
				t.Fatalf("%+v", r)
			}
			mine := func(a netip.Addr) bool { return a == netip.MustParseAddr("2001:db8:7::7") }
			if r.NAT(mine) != NATNone || r.NAT(nil) != NATEasy {
				t.Fatal(r.NAT(mine), r.NAT(nil))
			}
		}},
		{"both IP versions of a name", func(t *testing.T, f *fakeNet) {
			f.cfg.HaveV6 = nil
			f.hosts["stun.example"] = []netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("192.0.2.1")}
			f.stun("192.0.2.1:19302", own, 20*ms)
			f.stun("[2001:db8::1]:19302", "[2001:db8:7::7]:1", 20*ms)
			f.cfg.STUN = []string{"stun.example:19302", "nonsense", "a.example:0", "missing.example:1"}
		}, true, 21 * ms, func(t *testing.T, r *Report) {
			if !r.IPv4 || !r.IPv6 || r.GlobalV6 != ap("[2001:db8:7::7]:1") {
				t.Fatalf("%+v", r)
			}
		}},
		{"hairpin", func(t *testing.T, f *fakeNet) {
			f.serve("192.0.2.1:3478", own, 20*ms)
			f.hairpin = true
		}, false, 22 * ms, func(t *testing.T, r *Report) {
			if !r.Hairpin.IsTrue() {
				t.Fatalf("%+v", r)
			}
		}},
		{"no hairpin", func(t *testing.T, f *fakeNet) {
			f.serve("192.0.2.1:3478", own, 20*ms)
		}, false, 121 * ms, func(t *testing.T, r *Report) {
			if !r.Hairpin.IsFalse() {
				t.Fatalf("%+v", r)
			}
		}},
		{"no portal", func(t *testing.T, f *fakeNet) {
			f.relay(t, "r.example", "192.0.2.1", own, 10*ms)
		}, false, 200 * ms, func(t *testing.T, r *Report) {
			if !r.CaptivePortal.IsFalse() || r.Relays[0].STUNv4 != 10*ms || r.Relays[0].HTTPS != 10*ms || r.Preferred.IsZero() {
				t.Fatalf("%+v", r)
			}
		}},
		{"a portal answers 200 to everything", func(t *testing.T, f *fakeNet) {
			f.relay(t, "r.example", "192.0.2.1", "", 10*ms)
			f.web["r.example:80"] = func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("log in")) }
		}, false, 2001 * ms, func(t *testing.T, r *Report) {
			if !r.CaptivePortal.IsTrue() || r.UDP {
				t.Fatalf("%+v", r)
			}
		}},
		{"a portal answers 204 to everything", func(t *testing.T, f *fakeNet) {
			f.relay(t, "r.example", "192.0.2.1", "", 10*ms)
			f.web["r.example:80"] = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }
		}, false, 2001 * ms, func(t *testing.T, r *Report) {
			if !r.CaptivePortal.IsTrue() {
				t.Fatalf("%+v", r)
			}
		}},
		{"a relay that serves HTTPS only", func(t *testing.T, f *fakeNet) {
			f.relay(t, "r.example", "192.0.2.1", own, 10*ms)
			f.web["r.example:80"] = func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Location", "https://r.example"+r.URL.Path)
				w.WriteHeader(301)
			}
		}, false, 200 * ms, func(t *testing.T, r *Report) {
			if r.CaptivePortal != Unknown {
				t.Fatalf("%+v", r)
			}
		}},
		{"a relay hangs in HTTP", func(t *testing.T, f *fakeNet) {
			f.relay(t, "r.example", "192.0.2.1", own, 10*ms)
			f.web["r.example:80"] = nil
		}, false, 3100 * ms, func(t *testing.T, r *Report) {
			if r.CaptivePortal != Unknown || r.Relays[0].HTTPS != 0 || r.Relays[0].STUNv4 != 10*ms || r.Relays[0].Err != "" {
				t.Fatalf("%+v", r)
			}
		}},
		{"an endless page", func(t *testing.T, f *fakeNet) {
			f.relay(t, "r.example", "192.0.2.1", "", 10*ms)
			f.web["r.example:80"] = func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 10*maxBody)) }
		}, false, 2001 * ms, func(t *testing.T, r *Report) {
			if r.Relays[0].HTTPS != 0 || r.Relays[0].Err != errLong.Error() {
				t.Fatalf("%+v", r)
			}
		}},
		{"a relay without /ping", func(t *testing.T, f *fakeNet) {
			f.relay(t, "r.example", "192.0.2.1", "", 10*ms)
			f.web["r.example:80"] = func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(map[bool]int{true: 200, false: 404}[r.URL.Path == "/relay/probe"])
			}
		}, false, 2001 * ms, func(t *testing.T, r *Report) {
			if r.Relays[0].HTTPS != 10*ms {
				t.Fatalf("%+v", r)
			}
		}},
		{"DNS hangs", func(t *testing.T, f *fakeNet) {
			f.relay(t, "r.example", "192.0.2.1", "", 0)
			f.hosts["r.example"] = nil
			f.serve("192.0.2.9:3478", own, 10*ms)
		}, true, lookupTime + webWait, func(t *testing.T, r *Report) {
			if r.GlobalV4 != ap(own) || r.NAT(nil) != NATUnknown {
				t.Fatalf("%+v", r)
			}
		}},
		{"two names of one server", func(t *testing.T, f *fakeNet) {
			f.cfg.STUN = []string{"192.0.2.1:3478"}
			f.relay(t, "a.example", "192.0.2.1", own, 10*ms)
			f.relay(t, "b.example", "192.0.2.1", own, 10*ms)
		}, true, 10 * ms, func(t *testing.T, r *Report) {
			if len(r.Mapped) != 1 || r.Relays[0].STUNv4 != 10*ms || r.Relays[1].STUNv4 != 10*ms {
				t.Fatalf("%+v", r)
			}
		}},
		{"the router is asked", func(t *testing.T, f *fakeNet) {
			f.serve("192.0.2.1:3478", own, 20*ms)
			f.cfg.PortmapProbe = func(context.Context) (Portmap, bool) { return Portmap{PCP: true}, true }
		}, false, 121 * ms, func(t *testing.T, r *Report) {
			if r.Portmap == nil || !r.Portmap.PCP {
				t.Fatalf("%+v", r)
			}
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				test.setup(t, f)
				f.start()
				r := f.report(t, !test.quick)
				if r.Took > test.most {
					t.Errorf("took %v", r.Took)
				}
				test.check(t, r)
			})
		})
	}
}

// The NAT gives each new destination the next port.
func TestPortsCountedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		names := []string{"192.0.2.1:3478", "192.0.2.2:3478", "192.0.2.3:3478"}
		for _, s := range names {
			f.serve(s, "198.51.100.7:1", 0)
		}
		f.start()
		ports := make(map[netip.AddrPort]uint16)
		send := f.checker.cfg.Send
		f.checker.cfg.Send = func(b []byte, to netip.AddrPort) error {
			f.mu.Lock()
			if f.servers[to] != nil && ports[to] == 0 {
				ports[to] = 2000 + 3*uint16(len(ports))
				f.servers[to].seen = netip.AddrPortFrom(netip.MustParseAddr("198.51.100.7"), ports[to])
			}
			f.mu.Unlock()
			return send(b, to)
		}
		for range 2 { // the second time no mapping is new
			if r := f.report(t, false); r.PortDelta != 3 || !r.MappingVariesV4.IsTrue() {
				t.Fatalf("%+v", r)
			}
		}
	})
}

func TestAddrsBeforeTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		fast := f.serve("192.0.2.1:3478", "198.51.100.7:1000", 20*ms)
		slow := f.serve("192.0.2.2:3478", "198.51.100.7:1000", 150*ms)
		var mu sync.Mutex
		var at []time.Duration
		began := time.Now()
		f.cfg.Addrs = func() {
			mu.Lock()
			defer mu.Unlock()
			at = append(at, time.Since(began))
			if f.checker.Last().GlobalV4 != fast.seen {
				t.Errorf("Last shows %v", f.checker.Last().GlobalV4)
			}
		}
		f.start()
		f.report(t, false)
		if len(at) != 2 || at[0] != 20*ms || at[1] != 150*ms {
			t.Fatalf("told at %v: of the address by one answer, of the NAT by two", at)
		}
		f.report(t, false)
		if len(at) != 3 || at[2]-at[1] > time.Second {
			t.Fatalf("told at %v: the first answer of each run is news", at)
		}
		fast.seen, slow.seen = ap("198.51.100.8:1000"), ap("198.51.100.8:1000")
		f.report(t, false)
		if len(at) != 5 {
			t.Fatalf("told at %v", at)
		}
	})
}

// A NAT that shows each server another address has one to be shown that stays.
func TestHardNATKeepsItsAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		a := f.serve("192.0.2.1:3478", "198.51.100.7:1000", 20*ms)
		b := f.serve("192.0.2.2:3478", "198.51.100.7:3000", 40*ms)
		var told atomic.Int32
		f.cfg.Addrs = func() { told.Add(1) }
		f.start()
		first := f.report(t, true)
		a.delay, b.delay = b.delay, a.delay
		if r := f.report(t, false); r.GlobalV4 != first.GlobalV4 || told.Load() != 3 { // twice in the first: the address, the verdict
			t.Fatalf("%v, told %d times", r.GlobalV4, told.Load())
		}
	})
}

func TestPartialReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.cfg.HaveV6 = nil
		f.serve("192.0.2.1:3478", "198.51.100.7:1000", 20*ms)
		six := f.serve("[2001:db8::1]:3478", "[2001:db8:7::7]:1", 300*ms)
		f.start()
		ctx, cancel := context.WithTimeout(t.Context(), 100*ms)
		defer cancel()
		r, err := f.checker.Run(ctx, true)
		if err == nil || !r.UDP || !r.IPv4 || r.IPv6 || r.GlobalV4 != ap("198.51.100.7:1000") || r != f.checker.Last() {
			t.Fatalf("%v %+v", err, r)
		}
		six.delay = 20 * ms
		f.report(t, true)
		six.delay = 300 * ms
		ctx, cancel = context.WithTimeout(t.Context(), 100*ms)
		defer cancel()
		if r, _ := f.checker.Run(ctx, true); r.GlobalV6 != six.seen {
			t.Fatalf("what was known is lost: %+v", r)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if r, err := f.checker.Run(ended, false); err == nil || r.GlobalV4 != ap("198.51.100.7:1000") || r.GlobalV6 != six.seen {
			t.Fatalf("%v %+v", err, r)
		}
	})
}

func TestWhatWasNotAskedStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.serve("192.0.2.8:3478", "198.51.100.7:1000", 20*ms)
		f.serve("192.0.2.9:3478", "198.51.100.7:1000", 20*ms)
		f.relay(t, "web.example", "192.0.2.1", "", 0)
		f.relay(t, "both.example", "192.0.2.2", "198.51.100.7:1000", 40*ms)
		f.hairpin = true
		f.start()
		f.report(t, true)
		f.mu.Lock()
		f.dialled = nil
		f.mu.Unlock()
		r := f.report(t, false)
		if !r.Hairpin.IsTrue() || !r.CaptivePortal.IsFalse() || r.Relays[0].HTTPS != 10*ms || r.Relays[1].HTTPS != 10*ms || r.Relays[1].STUNv4 != 40*ms {
			t.Fatalf("%+v", r)
		}
		if len(f.dialled) != 0 || r.Took > time.Second {
			t.Fatalf("%v dialled in %v", f.dialled, r.Took)
		}
		// What has no STUN is asked again now and then.
		<-time.After(historyTime / 2)
		if f.report(t, false); len(f.dialled) != 1 {
			t.Fatalf("%v dialled", f.dialled)
		}
		// A relay that is gone is not preferred.
		gone := r.Preferred
		f.mu.Lock()
		delete(f.web, strings.TrimSuffix(gone.Parsed().Hostname(), ".")+":80")
		f.mu.Unlock()
		<-time.After(historyTime)
		r = f.report(t, false)
		if r.Preferred == gone || r.Preferred.IsZero() || r.relay(gone).Err == "" {
			t.Fatalf("%+v", r)
		}
	})
}

// A relay further off than the STUN servers is waited for, as it answered before.
func TestFarRelayIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.serve("192.0.2.8:3478", "198.51.100.7:1000", 5*ms)
		f.serve("192.0.2.9:3478", "198.51.100.7:1000", 5*ms)
		url := f.relay(t, "far.example", "192.0.2.1", "198.51.100.7:1000", 350*ms)
		f.start()
		f.report(t, true)
		r := f.report(t, false)
		if l := r.relay(url); l.STUNv4 != 350*ms || !l.at.Equal(r.At) {
			t.Fatalf("%+v", r)
		}
	})
}

// Without DNS the servers are where they were.
func TestDNSOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.hosts["stun.example"] = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
		f.stun("192.0.2.1:3478", "198.51.100.7:1000", 10*ms)
		f.cfg.STUN = []string{"stun.example:3478"}
		f.start()
		f.report(t, true)
		f.mu.Lock()
		f.hosts["stun.example"] = nil // hangs
		f.mu.Unlock()
		if r := f.report(t, false); !r.UDP || r.Took > knownTime+10*ms {
			t.Fatalf("%+v", r)
		}
	})
}
