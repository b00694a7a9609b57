package netmon

import (
	"net/netip"
	"slices"
	"strings"
)

// LeftOut is an interface that is no way to other machines, and why.
type LeftOut struct {
	Name, Why string
}

// judge parts the interfaces into those that may lead to other machines and those of
// containers and virtual machines on this host, which lead nowhere. It goes by what
// they are: whatever a default route leads through counts, and so do those of
// containers when there is nothing else.
func (m *Monitor) judge(all []Interface) (kept []Interface, left []LeftOut, err error) {
	var uplinks map[int]bool
	inside := make(map[int]string) // the index of an interface to what it is
	elsewhere := false             // an address of another interface
	for _, i := range all {
		why := insideOf(i, all)
		if why != "" && uplinks == nil {
			if uplinks, err = m.uplinks(); err != nil {
				return nil, nil, err
			}
		}
		switch {
		case m.cfg.Exclude(i.Name) || i.IsLoopback():
		case why != "" && !uplinks[i.Index]:
			inside[i.Index] = why
		case i.IsRunning() && slices.ContainsFunc(i.Addrs, reachesFar):
			elsewhere = true
		}
	}
	for _, i := range all {
		switch why := inside[i.Index]; {
		case m.cfg.Exclude(i.Name):
		case why != "" && elsewhere:
			left = append(left, LeftOut{Name: i.Name, Why: why})
		default:
			kept = append(kept, i)
		}
	}
	return kept, left, nil
}

func reachesFar(p netip.Prefix) bool { return p.Addr().IsGlobalUnicast() }

// uplinks are the interfaces that default routes lead through.
func (m *Monitor) uplinks() (map[int]bool, error) {
	routes, err := m.src.routes()
	if err != nil {
		return nil, err
	}
	via := make(map[int]bool)
	for _, r := range routes {
		via[r.index] = true
	}
	return via, nil
}

// insideOf says what an interface belongs to if containers or virtual machines of this
// host are likely to be all that is behind it, else nothing.
func insideOf(i Interface, all []Interface) string {
	ports := slices.DeleteFunc(slices.Clone(all), func(p Interface) bool { return p.Master != i.Index })
	isVirtual := func(p Interface) bool { return p.Kind == "veth" || p.Kind == "tuntap" }
	switch {
	case i.Kind == "bridge" && slices.ContainsFunc(ports, func(p Interface) bool { return !isVirtual(p) }):
		return "" // a cable or a radio is in it
	case i.Kind == "bridge":
		return "a bridge of containers or virtual machines"
	case containerName(i.Name):
		return "a link of containers, by its name"
	default:
		return ""
	}
}

// containerName recognises the names of interfaces that container engines make.
func containerName(name string) bool {
	for _, prefix := range []string{"veth", "docker", "br-", "cni", "flannel", "cali", "lxcbr", "virbr"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}
