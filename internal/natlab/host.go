package natlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/pion/stun/v2"

	"github.com/nodetun/nodetun/internal/netmon"
	"github.com/nodetun/nodetun/magicsock"
	"github.com/nodetun/nodetun/magicsock/udpconn"
)

// Host is a machine with one network interface. Lab.mu guards all fields.
type Host struct {
	lab     *Lab
	network *Network
	addrs   []netip.Addr // IPv4 first
	sockets map[uint16][]*socket
	monitor *monitor
}

// Host puts a machine into the network.
func (n *Network) Host() *Host {
	h := &Host{lab: n.lab, sockets: make(map[uint16][]*socket), monitor: &monitor{changed: make(chan netmon.Event, 1)}}
	h.monitor.host = h
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	h.join(n)
	return h
}

// join plugs the host in. l.mu is held.
func (h *Host) join(n *Network) {
	h.network = n
	h.addrs = []netip.Addr{n.address()}
	n.ends[h.addrs[0]] = h.receive
	if !n.prefix6 {
		return
	}
	addr := n.address6()
	h.addrs = append(h.addrs, addr)
	n.ends[addr] = h.receive
	for r := n.gateway; r != nil; r = r.outside.gateway {
		r.outside.ends[addr] = r.inbound6
	}
}

// leave unplugs it. l.mu is held.
func (h *Host) leave() {
	for _, a := range h.addrs {
		delete(h.network.ends, a)
		if a.Is6() {
			for r := h.network.gateway; r != nil; r = r.outside.gateway {
				delete(r.outside.ends, a)
			}
		}
	}
	h.addrs = nil
}

// Addr is the host's IPv4 address.
func (h *Host) Addr() netip.Addr {
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	return h.addrs[0]
}

// Move takes the host to another network; its monitor tells.
func (h *Host) Move(n *Network) {
	h.lab.mu.Lock()
	h.leave()
	h.join(n)
	h.lab.mu.Unlock()
	h.monitor.tell(netmon.Event{Major: true})
}

// receive hands a packet to the socket that it is for. l.mu is held.
func (h *Host) receive(p packet) {
	for _, s := range h.sockets[p.to.Port()] {
		if s.is6 == p.to.Addr().Is6() {
			s.put(p)
		}
	}
}

// send puts a packet of a socket on the wire. l.mu is held.
func (h *Host) send(port uint16, to netip.AddrPort, payload []byte, ecn uint8) error {
	at := slices.IndexFunc(h.addrs, func(a netip.Addr) bool { return a.Is6() == to.Addr().Is6() })
	if at < 0 {
		return errors.New("network is unreachable")
	}
	h.lab.sent[ecn]++
	h.network.carry(packet{from: netip.AddrPortFrom(h.addrs[at], port), to: to, payload: slices.Clone(payload), ecn: ecn})
	return nil
}

// Underlay is what a magicsock.Conn on this host stands on. Port mapping is not
// there.
func (h *Host) Underlay() *magicsock.Underlay {
	return &magicsock.Underlay{
		Open: func(cfg udpconn.Config) ([]magicsock.Socket, error) {
			port := cfg.Bind4.Port()
			if port == 0 {
				port = defaultPort
			}
			return []magicsock.Socket{h.listen(port, false), h.listen(port, true)}, nil
		},
		OpenExtra: func(_ udpconn.Config, is6 bool) (magicsock.Socket, error) { return h.listen(0, is6), nil },
		Monitor:   h.monitor,
		DialTCP:   h.lab.dial,
		Lookup: func(_ context.Context, host string) ([]netip.Addr, error) {
			return nil, fmt.Errorf("no such host: %s", host)
		},
	}
}

// Ports of sockets.
const (
	defaultPort = 41820
	freePort    = 50000 // the first that is given to who wants any
)

// listen binds a socket; port 0 means any.
func (h *Host) listen(port uint16, is6 bool) *socket {
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	for free := uint16(freePort); port == 0; free++ {
		if len(h.sockets[free]) == 0 {
			port = free
		}
	}
	s := newSocket(h, port, is6)
	h.sockets[port] = append(h.sockets[port], s)
	return s
}

// ServeSTUN has the host answer STUN on a port, over both IP versions.
func (h *Host) ServeSTUN(port uint16) {
	for _, is6 := range []bool{false, true} {
		s := h.listen(port, is6)
		s.sink = func(p packet) {
			m := &stun.Message{Raw: p.payload}
			if m.Decode() != nil {
				return
			}
			seen := &stun.XORMappedAddress{IP: p.from.Addr().AsSlice(), Port: int(p.from.Port())}
			if answer, err := stun.Build(m, stun.BindingSuccess, seen); err == nil {
				_ = h.send(port, p.from, answer.Raw, 0)
			}
		}
	}
}

// monitor is that of a host whose changes are made by the test.
type monitor struct {
	host    *Host
	changed chan netmon.Event
}

func (m *monitor) Run(ctx context.Context) error        { <-ctx.Done(); return nil }
func (m *monitor) Changed() <-chan netmon.Event         { return m.changed }
func (m *monitor) Gateway() (g netmon.Gateway, ok bool) { return g, false }
func (m *monitor) Close() error                         { return nil }

// Tunnelled is false: the cables are real ones.
func (m *monitor) Tunnelled(netip.Addr) bool { return false }

// MustName is false: the hosts have one address of a kind.
func (m *monitor) MustName(_, _ netip.Addr, _ int) bool { return false }

// tell passes an event on; one that waits already will do.
func (m *monitor) tell(e netmon.Event) {
	select {
	case m.changed <- e:
	default:
	}
}

func (m *monitor) Interfaces() ([]netmon.Interface, error) {
	m.host.lab.mu.Lock()
	defer m.host.lab.mu.Unlock()
	i := netmon.Interface{Name: "eth0", Index: 2, Flags: net.FlagUp | net.FlagRunning}
	for _, a := range m.host.addrs {
		i.Addrs = append(i.Addrs, netip.PrefixFrom(a, 24))
	}
	return []netmon.Interface{i}, nil
}

func (m *monitor) LeftOut() ([]netmon.LeftOut, error) { return nil, nil }

func (m *monitor) AllInterfaces() ([]netmon.Interface, error) { return m.Interfaces() }
