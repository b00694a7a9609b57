package netcheck

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// varies judges whether the mapping of one IP version depends on who is asked.
// Two servers at different addresses have to answer; two ports of one server can
// show that it depends, not that it does not. With one server only, what peers
// saw in the last 30 s counts as well, as far as they agree with each other.
func varies(list []Mapping, observed []observation, now time.Time) Maybe {
	servers := make(map[netip.Addr]bool)
	for _, m := range list {
		servers[m.Server.Addr()] = true
		if m.Addr != list[0].Addr {
			return True
		}
	}
	switch len(servers) {
	case 0:
		return Unknown
	case 1:
		return peersSay(list[0], observed, now)
	default:
		return False
	}
}

// peersSay compares what one server saw with what peers saw. Peers behind our own
// router, who may be sent another way, and those who see an address of another
// uplink say nothing.
func peersSay(m Mapping, observed []observation, now time.Time) Maybe {
	verdict := Unknown
	for _, o := range observed {
		age, own := now.Sub(o.at), m.Addr.Addr()
		if age > observedFor || age < -observedFor || o.seen.Addr() != own || o.from.Addr() == own || o.from.Addr() == m.Server.Addr() {
			continue
		}
		switch says := MaybeOf(o.seen.Port() != m.Addr.Port()); verdict {
		case Unknown, says:
			verdict = says
		default:
			return Unknown // one of them lies
		}
	}
	return verdict
}

// maxStep is the largest step of a NAT that counts.
const maxStep = 16

// portStep returns the step between mappings that were made one after another, in
// the order in which the requests left: at least three of them with one step up, or
// two that follow by 1 or 2. Ports drawn at random do so once in 30 000 times; what
// other hosts behind the router do in between only hides a step.
func portStep(list []Mapping) int {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b Mapping) int { return cmp.Compare(a.number, b.number) })
	// A NAT that looks at addresses alone gives two ports of a server one mapping.
	seen := make(map[netip.AddrPort]bool)
	list = slices.DeleteFunc(list, func(m Mapping) bool {
		twice := seen[m.Addr]
		seen[m.Addr] = true
		return twice
	})
	step := 0
	for i := 1; i < len(list); i++ {
		d := int(list[i].Addr.Port()) - int(list[i-1].Addr.Port())
		if d <= 0 || d > maxStep || step != 0 && d != step || list[i].Addr.Addr() != list[0].Addr.Addr() {
			return 0
		}
		step = d
	}
	if len(list) == 2 && step > 2 {
		return 0
	}
	return step
}

// portDelta is the step of a NAT whose mapping varies. Mappings that are as they
// were before were not made just now and tell nothing.
func portDelta(list []Mapping, previous *Report) int {
	made := slices.DeleteFunc(slices.Clone(list), func(m Mapping) bool {
		return slices.ContainsFunc(previous.Mapped, func(old Mapping) bool {
			return old.Server == m.Server && old.Addr == m.Addr
		})
	})
	if len(made) < 2 && sameHost(list[0].Addr, previous.GlobalV4) {
		return previous.PortDelta
	}
	return portStep(made)
}

func sameHost(a, b netip.AddrPort) bool { return a.Addr() == b.Addr() }

// family returns the mappings of one IP version.
func family(list []Mapping, is4 bool) []Mapping {
	var out []Mapping
	for _, m := range list {
		if m.Server.Addr().Is4() == is4 {
			out = append(out, m)
		}
	}
	return out
}

// global chooses the address to show: the previous one while it is among them.
func global(list []Mapping, previous netip.AddrPort) netip.AddrPort {
	if len(list) == 0 {
		return netip.AddrPort{}
	}
	if slices.ContainsFunc(list, func(m Mapping) bool { return m.Addr == previous }) {
		return previous
	}
	return list[0].Addr
}

// judge fills in what follows from the mappings of a report. What this run did not
// answer stays as it was while the address is the same.
func (r *Report) judge(observed []observation, previous *Report, now time.Time) {
	if previous == nil {
		previous = &Report{}
	}
	v4, v6 := family(r.Mapped, true), family(r.Mapped, false)
	r.IPv4, r.IPv6 = len(v4) > 0, len(v6) > 0
	r.UDP = r.IPv4 || r.IPv6
	r.GlobalV4, r.GlobalV6 = global(v4, previous.GlobalV4), global(v6, previous.GlobalV6)
	r.MappingVariesV4, r.MappingVariesV6 = varies(v4, observed, now), varies(v6, observed, now)
	if r.MappingVariesV4 == Unknown && r.GlobalV4 == previous.GlobalV4 && r.IPv4 {
		r.MappingVariesV4 = previous.MappingVariesV4
	}
	if r.MappingVariesV6 == Unknown && r.GlobalV6 == previous.GlobalV6 && r.IPv6 {
		r.MappingVariesV6 = previous.MappingVariesV6
	}
	r.PortDelta = 0
	if r.MappingVariesV4.IsTrue() {
		r.PortDelta = portDelta(v4, previous)
	}
}
