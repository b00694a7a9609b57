package netcheck

import (
	"testing"
	"time"
)

func TestVaries(t *testing.T) {
	now := time.Now()
	own, other := "198.51.100.7:1000", "198.51.100.7:2000"
	m := func(server, addr string) Mapping { return Mapping{Server: ap(server), Addr: ap(addr)} }
	o := func(from, seen string, age time.Duration) observation {
		return observation{ap(from), ap(seen), now.Add(-age)}
	}
	one := []Mapping{m("192.0.2.1:1", own)}
	tests := []struct {
		name string
		list []Mapping
		seen []observation
		want Maybe
	}{
		{"nothing", nil, nil, Unknown},
		{"peers alone", nil, []observation{o("203.0.113.1:1", own, 0), o("203.0.113.2:1", other, 0)}, Unknown},
		{"one", one, nil, Unknown},
		{"two agree", []Mapping{one[0], m("192.0.2.2:1", own)}, nil, False},
		{"two differ", []Mapping{one[0], m("192.0.2.2:1", other)}, nil, True},
		{"another address", []Mapping{one[0], m("192.0.2.2:1", "198.51.100.8:1000")}, nil, True},
		{"one host, two ports, agree", []Mapping{one[0], m("192.0.2.1:2", own)}, nil, Unknown},
		{"one host, two ports, differ", []Mapping{one[0], m("192.0.2.1:2", other)}, nil, True},
		{"a peer agrees", one, []observation{o("203.0.113.1:1", own, 0)}, False},
		{"a peer differs", one, []observation{o("203.0.113.1:1", other, 0)}, True},
		{"peers contradict each other", one, []observation{o("203.0.113.1:1", other, 0), o("203.0.113.2:1", own, 0)}, Unknown},
		{"an old one", one, []observation{o("203.0.113.1:1", other, 31*time.Second)}, Unknown},
		{"one of the future", one, []observation{o("203.0.113.1:1", other, -time.Hour)}, Unknown},
		{"another uplink", one, []observation{o("203.0.113.1:1", "198.51.100.8:1000", 0)}, Unknown},
		{"a peer behind our router", one, []observation{o("198.51.100.7:5", other, 0)}, Unknown},
		{"the server as a peer", one, []observation{o("192.0.2.1:5", other, 0)}, Unknown},
		{"two agree, a peer differs", []Mapping{one[0], m("192.0.2.2:1", own)}, []observation{o("203.0.113.1:1", other, 0)}, False},
	}
	for _, test := range tests {
		if got := varies(test.list, test.seen, now); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}

func TestPortStep(t *testing.T) {
	tests := []struct {
		name  string
		ports []int
		want  int
	}{
		{"none", nil, 0},
		{"one", []int{5000}, 0},
		{"two by one", []int{5000, 5001}, 1},
		{"two by two", []int{5000, 5002}, 2},
		{"two by three may be chance", []int{5000, 5003}, 0},
		{"three by three", []int{5000, 5003, 5006}, 3},
		{"three by sixteen", []int{5000, 5016, 5032}, 16},
		{"three by seventeen", []int{5000, 5017, 5034}, 0},
		{"down", []int{5002, 5001, 5000}, 0},
		{"not constant", []int{5000, 5001, 5003}, 0},
		{"random", []int{5000, 61234, 17}, 0},
		{"one mapping for two ports of a server", []int{5000, 5000, 5001}, 1},
		{"all the same", []int{5000, 5000, 5000}, 0},
	}
	for _, test := range tests {
		var list []Mapping
		for i, p := range test.ports {
			m := Mapping{Addr: apPort(p), number: i}
			list = append([]Mapping{m}, list...) // the order of answers does not matter
		}
		if got := portStep(list); got != test.want {
			t.Errorf("%s: %d", test.name, got)
		}
	}
}

func TestKeptVerdict(t *testing.T) {
	old := &Report{
		GlobalV4: apPort(1000), MappingVariesV4: True, PortDelta: 2,
		Mapped: []Mapping{{Server: ap("192.0.2.1:1"), Addr: apPort(1000)}, {Server: ap("192.0.2.2:1"), Addr: apPort(1002)}},
	}
	r := Report{Mapped: old.Mapped[:1]}
	if r.judge(nil, old, time.Now()); !r.MappingVariesV4.IsTrue() || r.PortDelta != 2 {
		t.Errorf("%+v", r)
	}
	r = Report{Mapped: []Mapping{{Server: ap("192.0.2.1:1"), Addr: ap("198.51.100.99:1")}}}
	if r.judge(nil, old, time.Now()); r.MappingVariesV4 != Unknown || r.PortDelta != 0 {
		t.Errorf("in another network: %+v", r)
	}
	if r = (Report{}); r.NAT(nil) != NATUnknown || (*Report)(nil).NAT(nil) != NATUnknown {
		t.Error(r.NAT(nil))
	}
}
