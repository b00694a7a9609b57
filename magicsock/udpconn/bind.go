package udpconn

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"
)

// Pauses between tries to be bound again, unless Rebind is called.
const (
	minPause = time.Second
	maxPause = 15 * time.Second
)

// Rebind replaces the file descriptor by a new one, on the address of the first
// socket, or on any port of it if that one was taken in the meantime. The reader
// goes on with the new one. If there is none to be had the Conn is unbound, and
// the reader tries again by itself.
func (c *Conn) Rebind() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rebindLocked()
}

func (c *Conn) rebindLocked() error {
	if c.closed {
		return net.ErrClosed
	}
	c.cur.Load().Close() // an unbound one a second time
	c.from.all.Store(nil)
	s, err := c.bind(c.want)
	if errors.Is(err, ErrPortInUse) {
		c.cfg.Logger.Warn("udp port was taken during rebind", "network", c.network, "err", err)
		s, err = c.bind(netip.AddrPortFrom(c.want.Addr(), 0))
	}
	if err == nil {
		err = s.SetReadDeadline(c.deadline)
	}
	defer c.lookAgain()
	if c.cfg.Rebound != nil {
		defer c.cfg.Rebound()
	}
	if err != nil {
		c.unbound = err
		return fmt.Errorf("rebind: %w", err)
	}
	if c.unbound != nil {
		c.cfg.Logger.Info("udp socket is back", "network", c.network, "addr", s.local)
	}
	c.unbound = nil
	c.cur.Store(s)
	return nil
}

// Unbound is why there is no socket now; nil while there is one.
func (c *Conn) Unbound() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.unbound
}

// lookAgain wakes a reader that waits for a socket.
func (c *Conn) lookAgain() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// awaitNext is for the reader when s ended with cause: it waits for the socket
// that follows, and makes it if nobody else does. Its errors are those of Read.
func (c *Conn) awaitNext(s *socket, cause error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cur.Load() == s && c.unbound == nil && !c.closed {
		c.stats.rxErrors.Add(1)
		c.cfg.Logger.Warn("udp read", "network", c.network, "addr", s.local, "err", cause)
		c.unbound = cause
		if c.pause == 0 { // it worked until now
			_ = c.rebindLocked() // the error is kept
		}
	}
	if c.retry.IsZero() { // else a deadline ended the last wait, which goes on
		c.pause = min(max(2*c.pause, minPause), maxPause)
		c.retry = time.Now().Add(c.pause)
	}
	for {
		switch now := time.Now(); {
		case c.closed:
			return net.ErrClosed
		case c.cur.Load() != s && c.unbound == nil:
			c.retry = time.Time{}
			return nil
		case !now.Before(c.retry):
			_ = c.rebindLocked() // the error is kept
			c.pause = min(2*c.pause, maxPause)
			c.retry = now.Add(c.pause)
			continue
		case !c.deadline.IsZero() && !now.Before(c.deadline):
			return os.ErrDeadlineExceeded
		}
		c.waitLocked(c.retry)
	}
}

// waitLocked waits, unlocked, for lookAgain, the deadline or a point in time.
func (c *Conn) waitLocked(until time.Time) {
	if !c.deadline.IsZero() && c.deadline.Before(until) {
		until = c.deadline
	}
	c.mu.Unlock()
	defer c.mu.Lock()
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-c.changed:
	case <-timer.C:
	}
}

// gone explains a send that failed because s was closed: nil if another socket has
// its place, which makes it a loss on the way.
func (c *Conn) gone(s *socket) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return net.ErrClosed
	case c.unbound != nil:
		return fmt.Errorf("%w: %w", ErrUnbound, c.unbound)
	}
	return nil
}

func (c *Conn) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// Close closes the socket for good.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	c.lookAgain()
	if err := c.cur.Load().Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close %s: %w", c.network, err)
	}
	return nil
}
