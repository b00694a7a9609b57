package relay

import (
	"errors"
	"net"
	"os"
	"time"
)

// Conn is a net.Conn whose Write fails only when the other side took nothing
// at all for Stall. A slow link may take minutes for what one Write holds; a
// fixed deadline would cut it off.
//
// It belongs below TLS, which cannot go on after a write that timed out.
type Conn struct {
	net.Conn
	// Stall is how long a Write may wait for the first byte to go; zero means
	// for ever.
	Stall time.Duration
}

// NewConn wraps a connection and sets the options of its socket that a relayed
// connection wants.
func NewConn(c net.Conn, stall time.Duration) *Conn {
	limitUnsent(c, firstPace)
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetKeepAlive(false) // pings of the protocol do it, and cost packets enough
	}
	return &Conn{Conn: c, Stall: stall}
}

// LimitUnsent sets how much written data the kernel may keep waiting beyond what is
// on its way (TCP_NOTSENT_LOWAT, where there is such a thing). More would only delay
// the frames that are to go first. See Pace.
func (c *Conn) LimitUnsent(n int) { limitUnsent(c.Conn, n) }

// GiveUpAfter ends the connection when what was sent is not acknowledged for so
// long (TCP_USER_TIMEOUT, where there is such a thing).
func (c *Conn) GiveUpAfter(d time.Duration) { setUserTimeout(c.Conn, d) }

// Write writes all of b.
func (c *Conn) Write(b []byte) (int, error) {
	if c.Stall <= 0 {
		return c.Conn.Write(b)
	}
	// What the kernel takes at once needs no deadline, whose timer would wake an idle
	// node long after.
	written, err := writeAtOnce(c.Conn, b)
	if err != nil || written == len(b) {
		return written, err
	}
	defer func() { _ = c.SetWriteDeadline(time.Time{}) }()
	for err == nil && written < len(b) {
		if err := c.SetWriteDeadline(time.Now().Add(c.Stall)); err != nil {
			return written, err
		}
		var n int
		n, err = c.Conn.Write(b[written:])
		written += n
		if n > 0 && errors.Is(err, os.ErrDeadlineExceeded) {
			err = nil
		}
	}
	return written, err
}

// CloseWrite ends what is sent and leaves what is received.
func (c *Conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}
