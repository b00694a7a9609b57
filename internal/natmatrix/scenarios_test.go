//go:build linux

package natmatrix

import (
	"testing"

	"github.com/nodetun/nodetun/internal/hosttest"
)

// scenario is a pair of networks.
type scenario struct {
	name  string
	a, b  string // what a reader sees of either side
	want  string // direct, relay or either
	quick bool   // stands for the others where there is little time
	build func(*testing.T, *world)
}

// Words for the table.
var words = map[hosttest.Kind]string{
	public:              "public address",
	hosttest.Firewall:   "public address, firewall",
	hosttest.Easy:       "easy NAT",
	hosttest.Restricted: "address-restricted NAT",
	hosttest.FullCone:   "full-cone NAT",
	hosttest.Symmetric:  "symmetric NAT, random ports",
	hosttest.Sequential: "symmetric NAT, ports in sequence",
	hosttest.Blocked:    "UDP blocked",
}

// public is no router at all.
const public hosttest.Kind = "public"

// scenarios are all of them, in the order of the table.
func scenarios() []scenario { return append(pairs(), specials()...) }

// pairs are two hosts each behind a router of one kind.
func pairs() []scenario {
	const (
		firewall   = hosttest.Firewall
		easy       = hosttest.Easy
		restricted = hosttest.Restricted
		cone       = hosttest.FullCone
		symmetric  = hosttest.Symmetric
		sequential = hosttest.Sequential
		blocked    = hosttest.Blocked
	)
	var list []scenario
	for _, p := range []struct {
		a, b  hosttest.Kind
		want  string
		quick bool
	}{
		{public, public, direct, false},
		{public, easy, direct, false},
		{public, symmetric, direct, true},
		{firewall, firewall, direct, false},
		{firewall, symmetric, either, false},
		{easy, easy, direct, true},
		{easy, restricted, direct, false},
		{easy, cone, direct, false},
		{restricted, restricted, direct, false},
		{restricted, cone, direct, false},
		{cone, cone, direct, false},
		{cone, symmetric, direct, false},
		{symmetric, cone, direct, false},
		{restricted, symmetric, direct, true},
		{symmetric, restricted, direct, false},
		{easy, sequential, direct, false},
		{easy, symmetric, either, false},
		{symmetric, easy, either, false},
		{sequential, sequential, either, false},
		{sequential, symmetric, either, false},
		{symmetric, symmetric, relay, true},
		{public, blocked, relay, false},
		{easy, blocked, relay, true},
		{blocked, blocked, relay, false},
	} {
		list = append(list, scenario{
			name: string(p.a) + " and " + string(p.b), a: words[p.a], b: words[p.b], want: p.want, quick: p.quick,
			build: func(t *testing.T, w *world) {
				w.join(t, w.a, hosttest.RouterConfig{Kind: p.a, LAN: 1})
				w.join(t, w.b, hosttest.RouterConfig{Kind: p.b, LAN: 2})
			},
		})
	}
	return list
}

// join puts a node behind a new router.
func (w *world) join(t *testing.T, n *node, c hosttest.RouterConfig) (hosttest.Cable, *hosttest.Router) {
	t.Helper()
	if c.Kind == public {
		return w.net.Join(t, n.Host), nil
	}
	r := w.net.Router(t, c)
	return r.Join(t, n.Host), r
}

// specials are the networks that are more than two routers.
func specials() []scenario {
	var (
		easy      = hosttest.RouterConfig{Kind: hosttest.Easy}
		symmetric = hosttest.RouterConfig{Kind: hosttest.Symmetric}
		carrier   = hosttest.RouterConfig{Kind: hosttest.Easy, Carrier: true}
		isolated  = hosttest.RouterConfig{Kind: hosttest.Easy, Carrier: true, Isolate: true}
		hairpin   = hosttest.RouterConfig{Kind: hosttest.Easy, Carrier: true, Isolate: true, Hairpin: true}
		mapping   = hosttest.RouterConfig{Kind: hosttest.Symmetric, PortMapping: true}
	)
	return []scenario{
		{"colliding LANs", "easy NAT, host 192.168.1.2", "easy NAT, host 192.168.1.2", direct, true, each(easy, easy)},
		{"two routers", "easy NAT behind an easy NAT", "easy NAT", direct, false, func(t *testing.T, w *world) {
			w.net.Router(t, hosttest.RouterConfig{Kind: hosttest.Easy, LAN: 7}).Behind(t, easy).Join(t, w.a.Host)
			w.join(t, w.b, easy)
		}},
		{"carrier", "easy NAT behind a carrier's easy NAT", "the same at another carrier", direct, false, func(t *testing.T, w *world) {
			w.net.Router(t, carrier).Behind(t, easy).Join(t, w.a.Host)
			w.net.Router(t, carrier).Behind(t, easy).Join(t, w.b.Host)
		}},
		{"symmetric carrier", "easy NAT behind a carrier's symmetric NAT", "address-restricted NAT", direct, false, func(t *testing.T, w *world) {
			w.net.Router(t, hosttest.RouterConfig{Kind: hosttest.Symmetric, Carrier: true}).Behind(t, easy).Join(t, w.a.Host)
			w.join(t, w.b, hosttest.RouterConfig{Kind: hosttest.Restricted, LAN: 2})
		}},
		{"same LAN", "easy NAT", "behind the same", direct, false, together(easy)},
		{"same LAN, symmetric", "symmetric NAT", "behind the same", direct, false, together(symmetric)},
		{"same carrier, hairpin", "easy NAT behind a carrier's that hairpins", "behind the same carrier's", direct, false, customers(hairpin)},
		{"same carrier, no hairpin", "easy NAT behind a carrier's that does not hairpin", "behind the same carrier's", relay, false, customers(isolated)},
		{"port-mapped symmetric and easy", "symmetric NAT with PCP", "easy NAT", direct, false, each(mapping, easy)},
		{"port-mapped symmetric and symmetric", "symmetric NAT with PCP", "symmetric NAT, random ports", direct, true, each(mapping, symmetric)},
		{"IPv6", "symmetric NAT, IPv6 with firewall", "the same", direct, true, each(
			hosttest.RouterConfig{Kind: hosttest.Symmetric, IPv6: true},
			hosttest.RouterConfig{Kind: hosttest.Symmetric, IPv6: true})},
		{"IPv6, UDP blocked", "UDP blocked, IPv6 with firewall", "the same", direct, false, each(
			hosttest.RouterConfig{Kind: hosttest.Blocked, IPv6: true},
			hosttest.RouterConfig{Kind: hosttest.Blocked, IPv6: true})},
		{"IPv6 on one side", "easy NAT, IPv6 with firewall", "easy NAT", direct, false, each(
			hosttest.RouterConfig{Kind: hosttest.Easy, IPv6: true}, easy)},
		{"just started", "easy NAT, just started", "the same", direct, false, fresh(each(easy, easy))},
		{"just started, symmetric", "address-restricted NAT, just started", "symmetric NAT, just started", direct, false, fresh(each(
			hosttest.RouterConfig{Kind: hosttest.Restricted}, symmetric))},
		{"short time-out", "easy NAT that forgets after 10 s", "the same", direct, false, each(
			hosttest.RouterConfig{Kind: hosttest.Easy, Timeout: 10},
			hosttest.RouterConfig{Kind: hosttest.Easy, Timeout: 10})},
	}
}

// each puts the nodes behind routers of their own.
func each(a, b hosttest.RouterConfig) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		w.join(t, w.a, a)
		w.join(t, w.b, b)
	}
}

// fresh lets nodes meet as soon as they have a relay.
func fresh(build func(*testing.T, *world)) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		build(t, w)
		w.fresh = true
	}
}

// together puts both behind one router.
func together(c hosttest.RouterConfig) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		_, r := w.join(t, w.a, c)
		r.Join(t, w.b.Host)
	}
}

// customers puts each behind an easy router at one carrier. Their ports differ:
// the carrier's router can map each to itself.
func customers(c hosttest.RouterConfig) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		r := w.net.Router(t, c)
		r.Behind(t, hosttest.RouterConfig{Kind: hosttest.Easy}).Join(t, w.a.Host)
		r.Behind(t, hosttest.RouterConfig{Kind: hosttest.Easy}).Join(t, w.b.Host)
		w.b.flags = append(w.b.flags, "--port", "41821")
	}
}
