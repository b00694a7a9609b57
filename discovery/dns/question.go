package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// stagger is when a question is sent, each time to the next server (iroh-net 0.28.1).
var stagger = [...]time.Duration{0, 200 * time.Millisecond, 300 * time.Millisecond}

// question is one question to several servers, for who thinks of it as a socket that leads
// to one: what is written goes to each of them in turn, until the first one has said
// something of use. Servers that are out of order, or refuse, are heard only if all do.
type question struct {
	*net.UDPConn
	servers []netip.AddrPort
	unwatch func() bool // the context that ends the question

	mu     sync.Mutex // guards the fields below
	id     [2]byte    // of what was written (RFC 1035 4.1.1)
	timers []*time.Timer
	failed []netip.AddrPort // servers that gave no answer of use
}

// silence is a time-out in words that name no socket.
type silence struct{}

func (silence) Error() string   { return "no answer" }
func (silence) Timeout() bool   { return true }
func (silence) Temporary() bool { return true }

var errSilence net.Error = silence{}

// ask makes the socket of a question, which ctx ends too.
func (c *Client) ask(ctx context.Context, servers []netip.AddrPort) (*question, error) {
	servers = slices.Clone(servers[:min(len(servers), len(stagger))])
	network := "udp4"
	for i, s := range servers {
		servers[i] = netip.AddrPortFrom(s.Addr().Unmap(), s.Port())
		if servers[i].Addr().Is6() {
			network = "udp" // both, where the host has both
		}
	}
	lc := net.ListenConfig{Control: c.Control}
	conn, err := lc.ListenPacket(ctx, network, ":0")
	if err != nil {
		return nil, err
	}
	q := &question{UDPConn: conn.(*net.UDPConn), servers: servers}
	q.unwatch = context.AfterFunc(ctx, func() { _ = q.UDPConn.Close() })
	return q, nil
}

// Write sends the question now and, until an answer was read, to the next servers.
func (q *question) Write(b []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	b = slices.Clone(b)
	copy(q.id[:], b)
	for i, delay := range stagger {
		server := q.servers[i%len(q.servers)]
		if delay == 0 {
			_, _ = q.WriteToUDPAddrPort(b, server) // the others are asked if it cannot be
			continue
		}
		q.timers = append(q.timers, time.AfterFunc(delay, func() { _, _ = q.WriteToUDPAddrPort(b, server) }))
	}
	return len(b), nil
}

// Read returns the next answer of use of any of the servers.
func (q *question) Read(b []byte) (int, error) {
	for {
		n, from, err := q.ReadFromUDPAddrPort(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return n, errSilence
		}
		if err != nil {
			return n, err
		}
		if q.counts(b[:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port())) {
			return n, nil
		}
	}
}

// counts reports whether an answer is one to pass on.
func (q *question) counts(b []byte, from netip.AddrPort) bool {
	const headerLen, rcodeAt = 12, 3 // RFC 1035 4.1.1
	asked := slices.ContainsFunc(q.servers, func(s netip.AddrPort) bool {
		return s.Port() == from.Port() && s.Addr().WithZone("") == from.Addr().WithZone("")
	})
	q.mu.Lock()
	defer q.mu.Unlock()
	if !asked || len(b) < headerLen || [2]byte(b) != q.id {
		return false
	}
	switch int(b[rcodeAt] & 0xf) {
	case dns.RcodeSuccess, dns.RcodeNameError:
		q.stopLocked()
		return true
	}
	if !slices.Contains(q.failed, from) {
		q.failed = append(q.failed, from)
	}
	return len(q.failed) == len(q.servers)
}

func (q *question) stopLocked() {
	for _, t := range q.timers {
		t.Stop()
	}
	q.timers = nil
}

// Close implements net.Conn.
func (q *question) Close() error {
	q.unwatch()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopLocked()
	return q.UDPConn.Close()
}

// SetDeadline implements net.Conn: three questions are answered soon, or not at all.
func (q *question) SetDeadline(t time.Time) error {
	if latest := time.Now().Add(tryTimeout); t.IsZero() || t.After(latest) {
		t = latest
	}
	return q.UDPConn.SetDeadline(t)
}
