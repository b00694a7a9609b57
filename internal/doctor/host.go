package doctor

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/nodetun/nodetun/internal/localapi"
)

// minMTU is the least that IPv6 has (RFC 8200, section 5).
const minMTU = 1280

// Host is what is known of the node and of its network interface.
type Host struct {
	Status localapi.Status
	// Link is the interface with the node's address, nil if there is none.
	Link *net.Interface
	// Clock is nil if there was nobody to ask for the time.
	Clock *ClockProbe
}

// LookAtHost looks at the host of a running node.
func LookAtHost(ctx context.Context, status localapi.Status) Host {
	return Host{Status: status, Link: linkWith(status.Self.IPv6), Clock: AskClock(ctx, status.Relays)}
}

// linkWith returns the interface that has an address.
func linkWith(text string) *net.Interface {
	want, err := netip.ParseAddr(text)
	if err != nil {
		return nil
	}
	links, err := net.Interfaces()
	if err != nil {
		return nil
	}
	for i := range links {
		addrs, err := links[i].Addrs()
		if err != nil {
			continue
		}
		for _, addr := range addrs {
			if prefix, err := netip.ParsePrefix(addr.String()); err == nil && prefix.Addr() == want {
				return &links[i]
			}
		}
	}
	return nil
}

// Findings tells of the node, its interface, and of all that its status warns of, but for
// names, which Names looks at closer.
func (h *Host) Findings() []Finding {
	self := &h.Status.Self
	list := []Finding{well("node", "runs, version "+self.Version)}
	tunnel := true
	for _, health := range h.Status.Health {
		tunnel = tunnel && !strings.Contains(health.Text, "does not work in the tunnel")
	}
	switch {
	case h.Link == nil:
		list = append(list, Finding{Subject: "tunnel", Text: "no network interface has " + self.IPv6, Fix: "nodetun puts it back within 2 s, unless something takes it away: see `ip monitor`"})
	case h.Link.Flags&net.FlagUp == 0:
		list = append(list, Finding{Subject: "tunnel", Text: h.Link.Name + " is down", Fix: "nodetun puts it up within 2 s, unless something takes it down: see `ip monitor`"})
	case h.Link.MTU < minMTU:
		list = append(list, Finding{Subject: "tunnel", Text: fmt.Sprintf("%s has an MTU of %d, too small for IPv6", h.Link.Name, h.Link.MTU), Fix: fmt.Sprintf("sudo ip link set %s mtu %d, and see who made it smaller", h.Link.Name, minMTU)})
	case tunnel:
		list = append(list, well("tunnel", fmt.Sprintf("%s is up, MTU %d; packets get through it, past routes and firewall", h.Link.Name, h.Link.MTU)))
	}
	for _, health := range h.Status.Health {
		if strings.HasPrefix(health.Text, "names ") {
			continue
		}
		list = append(list, Finding{Subject: "status", Text: health.Text, Fix: health.Fix})
	}
	return append(list, h.Clock.findings()...)
}

// Idle tells of a host on which the node does not run: what would keep it from starting.
// settings is what reading its settings gave.
func Idle(settings error) []Finding {
	list := []Finding{{Subject: "node", Text: "does not run", Fix: "sudo nodetun up"}}
	if settings != nil {
		list = append(list, Finding{Subject: "settings", Text: settings.Error(), Fix: "mend that line"})
	}
	if f := device(); f != nil {
		list = append(list, *f)
	}
	return list
}
