package natlab_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nodetun/nodetun/internal/natlab"
)

// nat is one kind of router.
type nat struct {
	name   string
	config natlab.Config
	none   bool // no router at all
}

// nats are all of them: every mapping with every filter, ports of a varying mapping
// at random, and what is not a matter of both.
func nats() []nat {
	list := []nat{{name: "public", none: true}, {name: "UDP blocked", config: natlab.Config{Blocked: true}}}
	all := []natlab.Behaviour{natlab.EndpointIndependent, natlab.AddressDependent, natlab.AddressAndPortDependent}
	for _, mapping := range all {
		for _, filtering := range all {
			c := natlab.Config{Mapping: mapping, Filtering: filtering, Ports: natlab.Random}
			list = append(list, nat{name: fmt.Sprintf("%v mapping, %v filtering", mapping, filtering), config: c})
		}
	}
	return append(list, nat{name: "counted ports", config: natlab.Config{
		Mapping: natlab.AddressAndPortDependent, Filtering: natlab.AddressAndPortDependent, Ports: natlab.Sequential,
	}})
}

// steady says that every destination sees the same address.
func (n nat) steady() bool { return n.none || n.config.Mapping == natlab.EndpointIndependent }

// open says that a ping from an unforeseen port of a node that was pinged at its
// public address gets in at the address that STUN shows.
func (n nat) open() bool {
	return n.none || n.config.Filtering == natlab.EndpointIndependent || n.steady() && n.config.Filtering == natlab.AddressDependent
}

// answers says that a node behind n that was pinged by one behind asker gets an
// answer back: it leaves by another port than the ping came to unless n is steady.
func (n nat) answers(asker nat) bool {
	return n.open() && (n.steady() || asker.none || asker.config.Filtering != natlab.AddressAndPortDependent)
}

// outcome is what is expected of a pair.
type outcome string

const (
	relayed  outcome = "relay"
	direct   outcome = "direct"
	possible outcome = "either" // by luck: only the payload counts
)

// expect is what theory says of two NATs.
func expect(a, b nat) outcome {
	switch {
	case a.config.Blocked || b.config.Blocked:
		return relayed
	case a.steady() && b.steady(), a.answers(b), b.answers(a):
		return direct
	case !a.steady() && !b.steady():
		if a.config.Ports == natlab.Sequential || b.config.Ports == natlab.Sequential {
			return possible
		}
		return relayed
	case a.config.Ports == natlab.Sequential || b.config.Ports == natlab.Sequential:
		return direct // the port is foretold
	}
	return possible // 256 tries
}

// Every pair of NATs gets the path that theory allows, and payload flows from the
// first moment.
func TestPairs(t *testing.T) {
	list := nats()
	for i, a := range list {
		for _, b := range list[i:] {
			t.Run(a.name+" and "+b.name, func(t *testing.T) {
				bubble(t, func(t *testing.T, w *world) {
					w.start(w.behind(a), w.behind(b))
					took, isDirect := w.meet()
					answered, gap := w.a.heard()
					if !answered || gap > replyWithin {
						t.Errorf("longest time without an answer %v", gap)
					}
					switch want := expect(a, b); {
					case want == direct && (!isDirect || took > directWithin):
						t.Errorf("direct: %v, after %v", isDirect, took)
					case want == relayed && isDirect:
						t.Errorf("direct after %v, which cannot be", took)
					}
				})
			})
		}
	}
}

// behind puts a host behind a new router of that kind.
func (w *world) behind(n nat) *natlab.Host {
	if n.none {
		return w.Internet.Host()
	}
	return w.Internet.NAT(n.config).Inside.Host()
}

// Routers in a row, hosts that share one, and two IP versions.
func TestNetworks(t *testing.T) {
	const portRestricted = natlab.AddressAndPortDependent
	easy := natlab.Config{Filtering: portRestricted}
	hard := natlab.Config{Mapping: natlab.AddressAndPortDependent, Filtering: portRestricted, Ports: natlab.Random}
	with := func(c natlab.Config, change func(*natlab.Config)) natlab.Config { change(&c); return c }
	carrier := with(easy, func(c *natlab.Config) { c.Carrier = true })
	hairpin := with(carrier, func(c *natlab.Config) { c.Hairpin = true })
	hard6 := with(hard, func(c *natlab.Config) { c.IPv6 = true })
	blocked6 := natlab.Config{Blocked: true, Filtering: portRestricted, IPv6: true}
	hardCarrier := with(hard, func(c *natlab.Config) { c.Carrier = true })
	firewall6 := with(easy, func(c *natlab.Config) { c.IPv6 = true })
	restricted := natlab.Config{Filtering: natlab.AddressDependent}

	each := func(a, b natlab.Config) func(*world) (x, y *natlab.Host) {
		return func(w *world) (x, y *natlab.Host) {
			return w.Internet.NAT(a).Inside.Host(), w.Internet.NAT(b).Inside.Host()
		}
	}
	together := func(c natlab.Config) func(*world) (x, y *natlab.Host) {
		return func(w *world) (x, y *natlab.Host) {
			inside := w.Internet.NAT(c).Inside
			return inside.Host(), inside.Host()
		}
	}
	customers := func(c natlab.Config) func(*world) (x, y *natlab.Host) {
		return func(w *world) (x, y *natlab.Host) {
			inside := w.Internet.NAT(c).Inside
			return inside.NAT(easy).Inside.Host(), inside.NAT(easy).Inside.Host()
		}
	}
	for _, test := range []struct {
		name  string
		build func(*world) (a, b *natlab.Host)
		want  outcome
	}{
		{"the same private address on both sides", each(easy, easy), direct},
		{"one LAN", together(easy), direct},
		{"one LAN, hard NAT", together(hard), direct},
		{"one LAN, UDP blocked", together(natlab.Config{Blocked: true}), direct},
		{"one carrier that hairpins", customers(hairpin), direct},
		{"one carrier that does not hairpin", customers(carrier), relayed},
		{"two carriers", func(w *world) (x, y *natlab.Host) {
			return w.Internet.NAT(carrier).Inside.NAT(easy).Inside.Host(), w.Internet.NAT(carrier).Inside.NAT(easy).Inside.Host()
		}, direct},
		{"three routers in a row", func(w *world) (x, y *natlab.Host) {
			return w.Internet.NAT(carrier).Inside.NAT(easy).Inside.NAT(easy).Inside.Host(), w.Internet.Host()
		}, direct},
		{"hard carrier and restricted", func(w *world) (x, y *natlab.Host) {
			return w.Internet.NAT(hardCarrier).Inside.NAT(easy).Inside.Host(), w.Internet.NAT(restricted).Inside.Host()
		}, direct},
		{"hard NATs with IPv6", each(hard6, hard6), direct},
		{"UDP blocked with IPv6", each(blocked6, blocked6), direct},
		{"IPv6 on one side", each(firewall6, easy), direct},
		{"hard NATs, IPv6 on one side", each(hard6, hard), relayed},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.start(test.build(w))
				took, isDirect := w.meet()
				if isDirect != (test.want == direct) || isDirect && took > directWithin {
					t.Errorf("direct: %v, after %v", isDirect, took)
				}
				if answered, gap := w.a.heard(); !answered || gap > replyWithin {
					t.Errorf("longest time without an answer %v", gap)
				}
			})
		})
	}
}

// Bounds of a change of the network under a session.
const (
	gapWithin  = 1500 * time.Millisecond
	backWithin = 5 * time.Second
)

// A session lives through changes of the network and is direct again 5 s after that
// is possible.
func TestChanges(t *testing.T) {
	short := natlab.Config{Filtering: natlab.AddressAndPortDependent, Timeout: 10 * time.Second}
	for _, test := range []struct {
		name   string
		gap    time.Duration
		change func(w *world, r *natlab.NAT)
	}{
		{"mappings forgotten", gapWithin, func(_ *world, r *natlab.NAT) { r.Reboot() }},
		{"another public address", gapWithin, func(_ *world, r *natlab.NAT) { r.Renumber() }},
		{"another network", gapWithin, func(w *world, _ *natlab.NAT) { w.a.host.Move(w.Internet.NAT(short).Inside) }},
		{"UDP blocked for a while", gapWithin, func(w *world, r *natlab.NAT) {
			r.Block(true)
			w.a.talk(10*time.Second, never)
			r.Block(false)
		}},
		{"home relay gone", gapWithin, func(w *world, _ *natlab.NAT) { w.relays[0].Stop() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				r := w.Internet.NAT(short)
				w.start(r.Inside.Host(), w.Internet.NAT(short).Inside.Host())
				if _, ok := w.meet(); !ok {
					t.Fatal("not direct to begin with")
				}
				w.a.talk(10*time.Second, never)
				w.a.forget()
				test.change(w, r)
				possible := time.Now()
				last := possible
				w.a.talk(15*time.Second, func() bool {
					if !w.direct() {
						last = time.Now()
					}
					return false
				})
				if took := last.Sub(possible); took > backWithin {
					t.Errorf("direct again after %v", took)
				}
				if _, gap := w.a.heard(); gap > test.gap {
					t.Errorf("longest time without an answer %v, want at most %v", gap, test.gap)
				}
			})
		})
	}
}

// A mapping that the NAT forgets after 10 s survives a session that says something
// once in 40 s only.
func TestShortMappings(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		short := nat{config: natlab.Config{Filtering: natlab.AddressAndPortDependent, Timeout: 10 * time.Second}}
		w.start(w.behind(short), w.behind(short))
		if _, ok := w.meet(); !ok {
			t.Fatal("not direct to begin with")
		}
		for range 10 {
			time.Sleep(40 * time.Second)
			if !w.direct() {
				t.Fatal("not direct any more")
			}
			w.a.forget()
			w.a.talk(time.Second, never)
			if answered, gap := w.a.heard(); !answered || gap > 2*beat {
				t.Fatalf("an answer took %v", gap)
			}
		}
	})
}

// Each kind of NAT is recognised by the node behind it.
func TestKinds(t *testing.T) {
	for _, n := range nats() {
		t.Run(n.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				a := w.node(w.behind(n))
				time.Sleep(10 * time.Second)
				want := "hard"
				switch {
				case n.none:
					want = "none"
				case n.config.Blocked:
					want = "blocked"
				case n.steady():
					want = "easy"
				}
				info := a.NetInfo()
				if info.NAT != want {
					t.Errorf("%s, want %s", info.NAT, want)
				}
				if counts := info.Report.PortDelta != 0; counts != (n.config.Ports == natlab.Sequential) {
					t.Errorf("step %d", info.Report.PortDelta)
				}
			})
		})
	}
}
