package netmon

import (
	"net"
	"net/netip"
	"slices"
	"testing"
)

func TestJudge(t *testing.T) {
	link := func(index int, name, kind string, master int, addrs ...string) Interface {
		i := Interface{Name: name, Index: index, Flags: running, Kind: kind, Master: master}
		for _, a := range addrs {
			i.Addrs = append(i.Addrs, netip.MustParsePrefix(a))
		}
		return i
	}
	lo := Interface{Name: "lo", Index: 1, Flags: running | net.FlagLoopback, Addrs: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")}}
	eth0 := link(2, "eth0", "", 0, "10.0.0.5/24")
	for _, tc := range []struct {
		name  string
		links []Interface
		via   int // the index of the default route's interface
		left  []string
	}{
		{"containers beside an uplink", []Interface{lo, eth0, link(3, "docker0", "bridge", 0, "172.17.0.1/16"), link(4, "veth12", "veth", 3)}, 2, []string{"docker0", "veth12"}},
		{"a bridge of containers by another name", []Interface{eth0, link(3, "podman0", "bridge", 0, "10.88.0.1/16"), link(4, "vc", "veth", 3)}, 2, []string{"podman0"}},
		{"the same without a port", []Interface{eth0, link(3, "podman0", "bridge", 0, "10.88.0.1/16")}, 2, []string{"podman0"}},
		{"virtual machines", []Interface{eth0, link(3, "vmbr", "bridge", 0, "10.99.0.1/16"), link(4, "tap1", "tuntap", 3)}, 2, []string{"vmbr"}},
		{"the LAN of a router", []Interface{link(2, "wan", "", 0, "192.0.2.5/24"), link(3, "br-lan", "bridge", 0, "192.168.1.1/24"), link(4, "lan1", "dsa", 3)}, 2, nil},
		{"an uplink called br-ex", []Interface{link(2, "br-ex", "openvswitch", 0, "10.0.0.5/24"), link(3, "docker0", "bridge", 0, "172.17.0.1/16")}, 2, []string{"docker0"}},
		{"an uplink called veth0", []Interface{link(2, "veth0", "veth", 0, "10.0.0.5/24"), link(3, "eth1", "", 0, "10.0.1.5/24")}, 2, nil},
		{"a bridge as uplink", []Interface{link(2, "br0", "bridge", 0, "10.0.0.5/24"), link(3, "veth1", "veth", 2), eth0}, 2, []string{"veth1"}},
		{"a cable between two machines, without a route", []Interface{lo, link(2, "veth0", "veth", 0, "10.0.0.5/24")}, 0, nil},
		{"beside a link without an address", []Interface{link(2, "veth0", "veth", 0, "10.0.0.5/24"), link(3, "eth0", "", 0, "fe80::5/64")}, 0, nil},
		{"beside our own TUN", []Interface{link(2, "veth0", "veth", 0, "10.0.0.5/24"), link(3, "tun9", "tuntap", 0, "198.18.0.5/32")}, 0, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			src := newFakeSource()
			src.set(tc.links...)
			if tc.via != 0 {
				src.defr = []route{{index: tc.via}}
			}
			m := newMonitor(Config{Exclude: func(name string) bool { return name == "tun9" }}, src)
			left, err := m.LeftOut()
			var names []string
			for _, l := range left {
				names = append(names, l.Name)
			}
			if err != nil || !slices.Equal(names, tc.left) {
				t.Errorf("left out %v, %v, want %v", left, err, tc.left)
			}
			kept, err := m.Interfaces()
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range kept {
				if slices.Contains(tc.left, i.Name) || i.Name == "tun9" {
					t.Errorf("%s counts", i.Name)
				}
			}
		})
	}
}

// What comes and goes on a bridge of containers is no change.
func TestContainersAreNoChange(t *testing.T) {
	eth0 := Interface{Name: "eth0", Index: 2, Flags: running, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.5/24")}}
	podman := Interface{Name: "podman0", Index: 3, Flags: running, Kind: "bridge", Addrs: []netip.Prefix{netip.MustParsePrefix("10.88.0.1/16")}}
	src := newFakeSource()
	src.set(eth0, podman)
	src.defr = []route{{index: 2}}
	m := newMonitor(Config{}, src)
	with, err := m.look()
	if err != nil {
		t.Fatal(err)
	}
	src.set(eth0)
	without, err := m.look()
	if err != nil || !without.equal(with) {
		t.Errorf("%+v, %v, before %+v", without, err, with)
	}
}
