package relay

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// A client that reads a little every second may take as long as it likes; one
// that reads nothing is given up after the stall time.
func TestConnStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		c := NewConn(a, 2*time.Second)
		go func() {
			buf := make([]byte, 10)
			for range 10 {
				time.Sleep(time.Second)
				_, _ = io.ReadFull(b, buf)
			}
		}()
		begin := time.Now()
		n, err := c.Write(make([]byte, 1000))
		if n != 100 || err == nil {
			t.Errorf("wrote %d, %v", n, err)
		}
		// The deadline is looked at when it has passed, so a stall is noticed
		// between 2 and 4 s after the last byte.
		if d := time.Since(begin); d < 12*time.Second || d > 14*time.Second {
			t.Errorf("gave up after %v", d)
		}
	})
}
