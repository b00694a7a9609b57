package netcheck

import (
	"context"
	"errors"
	"net/netip"
	"syscall"
	"time"
)

// Ask finds out under which address the socket behind send is seen, from the
// IPv4 STUN server that answered fastest last time; false when there is none or it
// does not answer before ctx ends. The answer comes through HandleSTUN.
func (c *Checker) Ask(ctx context.Context, send func(b []byte, to netip.AddrPort) error) (netip.AddrPort, bool) {
	var server netip.AddrPort
	if r := c.Last(); r != nil {
		best := time.Duration(0)
		for _, m := range r.Mapped {
			if m.Server.Addr().Is4() && (best == 0 || m.Latency < best) {
				server, best = m.Server, m.Latency
			}
		}
	}
	if !server.IsValid() {
		return netip.AddrPort{}, false
	}
	a, err := c.exchange(ctx, server, send)
	return a.addr, err == nil
}

// stunGaps is how long each copy of a request waits for its answer before the next
// one follows. Each is a request of its own, so that its answer tells its latency,
// and late answers to earlier ones count as well.
var stunGaps = []time.Duration{200 * time.Millisecond, 300 * time.Millisecond, 500 * time.Millisecond, time.Second}

// errNoAnswer says that a server was asked and does not answer.
var errNoAnswer = errors.New("no answer")

// exchange asks one server until it answers. The error is errNoAnswer, that of
// ctx, or that of send when nothing could leave.
func (c *Checker) exchange(ctx context.Context, server netip.AddrPort, send func(b []byte, to netip.AddrPort) error) (answer, error) {
	var txs []txID
	defer func() { c.land(txs...) }()
	first := make(chan answer, 1) // of any of the copies
	left := false
	for _, gap := range stunGaps {
		if tx, b, ok := c.launch(server, false, first); ok {
			txs = append(txs, tx)
			err := send(b, server)
			if err != nil && !left && !passing(err) {
				return answer{}, err
			}
			left = left || err == nil
		}
		timer := time.NewTimer(gap)
		select {
		case a := <-first:
			timer.Stop()
			return a, nil
		case <-ctx.Done():
			timer.Stop()
			return answer{}, ctx.Err()
		case <-timer.C:
		}
	}
	return answer{}, errNoAnswer
}

// passing says that sending may work a moment later.
func passing(err error) bool {
	for _, e := range []error{syscall.ENOBUFS, syscall.EAGAIN, syscall.ENOMEM, syscall.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
