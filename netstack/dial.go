package netstack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// dial is a connection attempt under way; failed takes an ICMP error.
type dial struct{ failed chan error }

// portWait is how long Dial waits for a port that another flow to the same place has: as the
// caller uses it again, that one is about to end.
const (
	portWait = 5 * time.Second
	portLook = 2 * time.Millisecond
)

// Dial connects from src to dst and waits until that has succeeded or failed.
// Both are of one family. If the port of src is zero any free one is taken, and no other
// than src's if it is not: while a connection from there to dst ends, Dial waits.
//
// Errors wrap ErrRefused, ErrTimeout (also when ctx has a deadline that passed, and when the
// port does not get free), ErrHostUnreachable, ErrNetUnreachable, ErrAddress, ErrClosed when the stack
// is closed, or are ctx's.
func (s *Stack) Dial(ctx context.Context, src, dst netip.AddrPort) (*Flow, error) {
	if !src.Addr().IsValid() || src.Addr().Is4() != dst.Addr().Is4() || dst.Port() == 0 ||
		src.Addr().Is4In6() || dst.Addr().Is4In6() {
		return nil, fmt.Errorf("%w: %s to %s", ErrAddress, src, dst)
	}
	if !s.begin() {
		return nil, ErrClosed
	}
	defer s.work.Done()
	f, err := s.dialFrom(ctx, src, dst)
	for began := time.Now(); errors.Is(err, errPortTaken) && time.Since(began) < portWait; {
		select {
		case <-time.After(portLook):
			f, err = s.dialFrom(ctx, src, dst)
		case <-ctx.Done():
			err = ctx.Err()
		case <-s.done:
			err = ErrClosed
		}
	}
	switch {
	case errors.Is(err, errPortTaken), errors.Is(err, context.DeadlineExceeded):
		err = fmt.Errorf("%w: %w", ErrTimeout, err)
	}
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", dst, err)
	}
	s.dialled.Add(1)
	return f, nil
}

// errPortTaken means that the four-tuple is in use.
var errPortTaken = errors.New("source port is taken")

// dialFrom is Dial with exactly the given port.
func (s *Stack) dialFrom(ctx context.Context, src, dst netip.AddrPort) (*Flow, error) {
	proto := header.IPv4ProtocolNumber
	if dst.Addr().Is6() {
		proto = header.IPv6ProtocolNumber
	}
	f := newFlow(s, src, dst)
	endpoint, err := s.net.NewEndpoint(tcp.ProtocolNumber, proto, &f.queue)
	if err != nil {
		return nil, stackError(err)
	}
	// Several flows may share a port of src, towards different destinations.
	endpoint.SocketOptions().SetReuseAddress(src.Port() != 0)
	if failure := s.connect(ctx, f, endpoint); failure != nil {
		endpoint.Abort()
		endpoint.Close()
		return nil, failure
	}
	f.start(endpoint)
	return f, nil
}

// connect binds, sends the SYN and waits for what comes of it.
func (s *Stack) connect(ctx context.Context, f *Flow, endpoint tcpip.Endpoint) error {
	if err := endpoint.Bind(fullAddress(f.local)); err != nil {
		return bindError(err)
	}
	if f.local.Port() == 0 {
		bound, err := endpoint.GetLocalAddress()
		if err != nil {
			return stackError(err)
		}
		f.local = netip.AddrPortFrom(f.local.Addr(), bound.Port)
	}
	d := &dial{failed: make(chan error, 1)}
	key := flowKey{f.local, f.remote}
	if !s.addDial(key, d) {
		return errPortTaken
	}
	defer s.removeDial(key)

	entry, changed := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	f.queue.EventRegister(&entry)
	defer f.queue.EventUnregister(&entry)
	err := endpoint.Connect(fullAddress(f.remote))
	if _, started := err.(*tcpip.ErrConnectStarted); !started {
		return bindError(err)
	}
	for {
		select {
		case <-changed:
			if s.isClosed() {
				return ErrClosed
			}
			if done, err := connected(endpoint); done {
				return err
			}
		case err := <-d.failed:
			return err
		case <-s.done:
			return ErrClosed
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("%w: %w", ErrTimeout, ctx.Err())
			}
			return ctx.Err()
		}
	}
}

// connected looks whether the handshake has ended, and how.
func connected(endpoint tcpip.Endpoint) (done bool, err error) {
	switch tcp.EndpointState(endpoint.State()) {
	case tcp.StateSynSent, tcp.StateSynRecv, tcp.StateConnecting, tcp.StateBound:
		return false, nil
	case tcp.StateError, tcp.StateClose:
		if err := stackError(endpoint.LastError()); err != nil {
			return true, err
		}
		return true, ErrRefused
	}
	return true, nil
}

// bindError translates an error of Bind or Connect.
func bindError(err tcpip.Error) error {
	switch err.(type) {
	case *tcpip.ErrPortInUse, *tcpip.ErrBadLocalAddress:
		return errPortTaken
	}
	return stackError(err)
}

// addDial notes an attempt, unless there is one between the same ends.
func (s *Stack) addDial(key flowKey, d *dial) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.dials[key]; taken {
		return false
	}
	s.dials[key] = d
	return true
}

func (s *Stack) removeDial(key flowKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.dials, key)
}

// failDial ends an attempt with an error; the first one counts.
func (s *Stack) failDial(key flowKey, err error) {
	s.mu.Lock()
	d := s.dials[key]
	s.mu.Unlock()
	if d == nil {
		return
	}
	select {
	case d.failed <- err:
	default:
	}
}

// fullAddress converts to an address of gVisor.
func fullAddress(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFromSlice(a.Addr().AsSlice()), Port: a.Port()}
}
