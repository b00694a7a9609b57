package natlab

import (
	"container/heap"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// Hop is how long a packet is under way on each network.
const Hop = 5 * time.Millisecond

// Lab is one internet. Its methods, and those of what belongs to it, may be called
// from any goroutine.
type Lab struct {
	// Internet is the public network.
	Internet *Network

	t testing.TB

	mu       sync.Mutex // guards all networks, NATs and hosts, and the fields below
	queue    queue
	sequence int
	networks int
	relays   map[string]*Relay // by host:port
	wake     chan struct{}
	lose     func() bool
	lost     int
	sent     [4]int // by ECN field
}

// packet is a UDP datagram.
type packet struct {
	from, to netip.AddrPort
	payload  []byte
	ecn      uint8
}

// event is something due.
type event struct {
	at       time.Time
	sequence int
	do       func()
}

// queue is a heap of events, the next one first.
type queue []event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].sequence < q[j].sequence
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *queue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	*q = (*q)[:last]
	return e
}

// New makes an internet that lasts until the test ends.
func New(t testing.TB) *Lab {
	l := &Lab{t: t, relays: make(map[string]*Relay), wake: make(chan struct{}, 1)}
	l.Internet = l.network(nil)
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		l.run(done)
	}()
	t.Cleanup(func() {
		close(done)
		<-stopped
	})
	return l
}

// Lose has lose asked about each packet on the public network from now on, one at a time, whether it
// is lost. Nil: none is.
func (l *Lab) Lose(lose func() bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lose = lose
}

// Lost counts the packets that were lost that way.
func (l *Lab) Lost() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

// Sent counts the packets that hosts have sent with an ECN field.
func (l *Lab) Sent(ecn uint8) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent[ecn]
}

// run does what is due until done.
func (l *Lab) run(done <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-done:
			return
		case <-l.wake:
		case <-timer.C:
		}
		timer.Reset(l.turn())
	}
}

// turn does what is due and returns how long nothing is.
func (l *Lab) turn() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.queue) > 0 {
		if wait := time.Until(l.queue[0].at); wait > 0 {
			return wait
		}
		heap.Pop(&l.queue).(event).do()
	}
	return time.Hour
}

// after has f called, with l.mu held, when a hop is over. l.mu is held.
func (l *Lab) after(f func()) {
	l.sequence++
	heap.Push(&l.queue, event{at: time.Now().Add(Hop), sequence: l.sequence, do: f})
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Network is a wire that all who are on it share. Lab.mu guards all fields.
type Network struct {
	lab     *Lab
	gateway *NAT // to which all goes that is for nobody here; nil: it is lost
	ends    map[netip.Addr]func(packet)
	number  int
	hosts   int
	prefix6 bool // hosts here have IPv6 addresses
	prefix4 string
}

func (l *Lab) network(gateway *NAT) *Network {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := &Network{lab: l, gateway: gateway, ends: make(map[netip.Addr]func(packet)), number: l.networks}
	l.networks++
	if gateway == nil {
		n.prefix4, n.prefix6 = "203.0.113.", true
		return n
	}
	n.prefix4, n.prefix6 = "192.168.1.", gateway.config.IPv6
	if gateway.config.Carrier {
		n.prefix4 = "100.64.0."
	}
	return n
}

// address returns the next free IPv4 address. l.mu is held.
func (n *Network) address() netip.Addr {
	n.hosts++
	return netip.MustParseAddr(fmt.Sprintf("%s%d", n.prefix4, 1+n.hosts))
}

// address6 returns the IPv6 address of the host that was added last. All networks
// share 2001:db8::/32. l.mu is held.
func (n *Network) address6() netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("2001:db8:%x::%x", n.number, 1+n.hosts))
}

// carry puts a packet on the network. l.mu is held.
func (n *Network) carry(p packet) {
	if l := n.lab; n.gateway == nil && l.lose != nil && l.lose() {
		l.lost++
		return
	}
	n.lab.after(func() {
		switch end := n.ends[p.to.Addr()]; {
		case end != nil:
			end(p)
		case n.gateway != nil:
			n.gateway.outbound(p)
		}
	})
}
