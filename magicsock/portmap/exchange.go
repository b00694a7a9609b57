package portmap

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/nodetun/nodetun/magicsock/portmap/natpmp"
)

const (
	// firstPause is how long the first answer is waited for; each pause is
	// twice the one before (RFC 6886 3.1).
	firstPause = 250 * time.Millisecond
	// errorPause follows a read that failed at once.
	errorPause = 10 * time.Millisecond
)

// errNoAnswer is that of exchange when time is over.
var errNoAnswer = errors.New("no answer")

// exchange sends a question from a fresh port until take accepts an answer from
// the address asked, or ctx ends. take returns false to go on waiting. The
// bytes are take's until it returns.
func (c *Client) exchange(ctx context.Context, gw Gateway, port uint16, question []byte, take func(b []byte) bool) error {
	conn, err := c.listen(netip.AddrPortFrom(gw.Self, 0))
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	to := netip.AddrPortFrom(gw.Addr, port)
	from := func(sender netip.AddrPort) bool { return unmap(sender) == to }
	buf := make([]byte, natpmp.MaxSize)
	for pause := firstPause; ; pause *= 2 {
		if _, err := conn.WriteToUDPAddrPort(question, to); err != nil {
			return fmt.Errorf("ask: %w", err)
		}
		if answered, err := await(ctx, conn, from, buf, time.Now().Add(pause), take); answered || err != nil {
			return err
		}
	}
}

// await reads until take accepts what a sender of those in from sent, which it
// reports, or the deadline, or the end of ctx, which is an error.
func await(ctx context.Context, conn PacketConn, from func(netip.AddrPort) bool, buf []byte, deadline time.Time, take func(b []byte) bool) (bool, error) {
	if err := conn.SetReadDeadline(deadline); err != nil {
		return false, fmt.Errorf("await an answer: %w", err)
	}
	for {
		// Checked after the deadline was set, which undoes that of AfterFunc.
		if ctx.Err() != nil {
			return false, errNoAnswer
		}
		n, sender, err := conn.ReadFromUDPAddrPort(buf)
		switch {
		case err == nil && from(sender):
			if take(buf[:n]) {
				return true, nil
			}
		case err == nil: // of somebody else
		case errors.Is(err, os.ErrDeadlineExceeded):
			if ctx.Err() != nil {
				return false, errNoAnswer
			}
			return false, nil
		case errors.Is(err, os.ErrClosed):
			return false, err
		default: // an ICMP error of something sent before
			if !rest(ctx, errorPause) {
				return false, errNoAnswer
			}
		}
		if !time.Now().Before(deadline) { // a flood leaves no time to time out
			return false, nil
		}
	}
}

// rest waits; false when ctx ended.
func rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
