package natlab

import (
	"math/rand/v2"
	"net/netip"
	"time"
)

// Behaviour is what a NAT looks at beside the address and port of the host inside,
// when it maps (RFC 4787 4.1) and when it filters (5).
type Behaviour uint8

// Behaviours.
const (
	EndpointIndependent     Behaviour = iota // nothing
	AddressDependent                         // the address of the other host
	AddressAndPortDependent                  // and its port
)

// String returns the words of RFC 4787.
func (b Behaviour) String() string {
	return [...]string{"endpoint-independent", "address-dependent", "address-and-port-dependent"}[b]
}

// Ports is how a NAT chooses the port outside (RFC 4787 4.2).
type Ports uint8

// Ways to choose.
const (
	Preserved  Ports = iota // that of the host inside, or the next one that is free
	Sequential              // the next one each time
	Random
)

// Config is what a NAT does. The zero one is full-cone.
type Config struct {
	Mapping, Filtering Behaviour
	Ports              Ports
	// Timeout is the life of a mapping that nothing leaves by; zero: for ever.
	Timeout time.Duration
	// Hairpin lets hosts inside reach each other's mappings.
	Hairpin bool
	// Blocked lets no UDP over IPv4 pass.
	Blocked bool
	// IPv6 gives hosts inside public IPv6 addresses. The router then does not
	// translate, and filters by Filtering.
	IPv6 bool
	// Carrier numbers the network inside 100.64.0.0/10 instead of 192.168.1.0/24.
	Carrier bool
}

// NAT is a router. Lab.mu guards all fields but Inside.
type NAT struct {
	// Inside is the network behind it.
	Inside *Network

	config  Config
	outside *Network
	addr    netip.Addr // outside
	by      map[key]*mapping
	ports   map[uint16]*mapping
	next    uint16
	open6   map[key]time.Time // when a host inside last sent there
}

// key says which packets share a mapping or a filter entry; fields that the
// behaviour does not look at are zero.
type key struct {
	inside netip.AddrPort
	addr   netip.Addr
	port   uint16
}

func (b Behaviour) key(inside, other netip.AddrPort) key {
	k := key{inside: inside}
	if b >= AddressDependent {
		k.addr = other.Addr()
	}
	if b == AddressAndPortDependent {
		k.port = other.Port()
	}
	return k
}

// mapping is a port outside.
type mapping struct {
	inside  netip.AddrPort
	port    uint16
	used    time.Time
	allowed map[key]bool // who may answer, as far as Filtering looks
}

// firstPort is the first one of Sequential.
const firstPort = 20000

// NAT puts a router between this network and a new one.
func (n *Network) NAT(c Config) *NAT {
	r := &NAT{config: c, outside: n, next: firstPort}
	r.Inside = n.lab.network(r)
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	r.forget()
	r.move()
	return r
}

// move gives the router its next address outside. l.mu is held.
func (r *NAT) move() {
	delete(r.outside.ends, r.addr)
	r.addr = r.outside.address()
	r.outside.ends[r.addr] = r.inbound
}

func (r *NAT) forget() {
	r.by, r.ports, r.open6 = make(map[key]*mapping), make(map[uint16]*mapping), make(map[key]time.Time)
}

// Renumber gives the router another address outside; it forgets all mappings.
func (r *NAT) Renumber() {
	r.outside.lab.mu.Lock()
	defer r.outside.lab.mu.Unlock()
	r.forget()
	r.move()
}

// Reboot has the router forget all mappings and number its ports anew.
func (r *NAT) Reboot() {
	r.outside.lab.mu.Lock()
	defer r.outside.lab.mu.Unlock()
	r.forget()
	r.next += 1000
}

// Block lets UDP over IPv4 pass no more, or again.
func (r *NAT) Block(blocked bool) {
	r.outside.lab.mu.Lock()
	defer r.outside.lab.mu.Unlock()
	r.config.Blocked = blocked
}

// outbound takes a packet from inside. l.mu is held.
func (r *NAT) outbound(p packet) {
	if p.to.Addr().Is6() {
		r.open6[r.config.Filtering.key(p.from, p.to)] = time.Now()
		r.outside.carry(p)
		return
	}
	if r.config.Blocked {
		return
	}
	if p.to.Addr() == r.addr && !r.config.Hairpin {
		return
	}
	m := r.mappingFor(p.from, p.to)
	m.used = time.Now()
	m.allowed[r.config.Filtering.key(m.inside, p.to)] = true
	p.from = netip.AddrPortFrom(r.addr, m.port)
	if p.to.Addr() == r.addr {
		r.inbound(p)
		return
	}
	r.outside.carry(p)
}

// inbound takes a packet for the router's own address. l.mu is held.
func (r *NAT) inbound(p packet) {
	m := r.ports[p.to.Port()]
	if r.config.Blocked || m == nil || r.expired(m) || !m.allowed[r.config.Filtering.key(m.inside, p.from)] {
		return
	}
	p.to = m.inside
	r.Inside.carry(p)
}

// inbound6 takes a packet for a host inside. l.mu is held.
func (r *NAT) inbound6(p packet) {
	at, ok := r.open6[r.config.Filtering.key(p.to, p.from)]
	if ok && (r.config.Timeout == 0 || time.Since(at) <= r.config.Timeout) {
		r.Inside.carry(p)
	}
}

func (r *NAT) expired(m *mapping) bool {
	return r.config.Timeout > 0 && time.Since(m.used) > r.config.Timeout
}

// mappingFor finds or makes the mapping of a packet from inside.
func (r *NAT) mappingFor(inside, to netip.AddrPort) *mapping {
	k := r.config.Mapping.key(inside, to)
	m := r.by[k]
	if m != nil && !r.expired(m) {
		return m
	}
	if m != nil {
		delete(r.ports, m.port)
	}
	m = &mapping{inside: inside, port: r.choose(inside.Port()), allowed: make(map[key]bool)}
	r.by[k], r.ports[m.port] = m, m
	return m
}

// choose returns a free port outside.
func (r *NAT) choose(inside uint16) uint16 {
	port := inside
	for {
		switch r.config.Ports {
		case Sequential:
			port = r.next
			r.next++
		case Random:
			port = uint16(1024 + rand.N(64000))
		}
		if m := r.ports[port]; port != 0 && (m == nil || r.expired(m)) {
			return port
		}
		port++
	}
}
