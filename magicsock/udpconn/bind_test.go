package udpconn

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// unlucky has binding fail with the errors that come out of the channel, nil for a
// try that may succeed; when it is empty all succeed.
func unlucky(c *Conn, errs ...error) (tries *[]time.Time) {
	tries = new([]time.Time)
	c.bind = func(addr netip.AddrPort) (*socket, error) {
		*tries = append(*tries, time.Now())
		if len(errs) > 0 {
			err := errs[0]
			errs = errs[1:]
			if err != nil {
				return nil, err
			}
		}
		return c.newSocket(addr)
	}
	return tries
}

// rebound makes a channel that is told of each change of the socket. While a reader
// waits in the kernel virtual time stands still, so tests wait for this instead.
func rebound(c *Conn) <-chan struct{} {
	told := make(chan struct{}, 100)
	c.cfg.Rebound = func() { told <- struct{}{} }
	return told
}

// readOne reads one message in the background.
func readOne(c *Conn) <-chan string {
	got := make(chan string, 1)
	go func() {
		ms := messages(1)
		if n, err := c.Read(ms); n != 1 || err != nil {
			got <- "error: " + err.Error()
			return
		}
		got <- string(ms[0].Buf[:ms[0].N])
	}()
	return got
}

// A rebind that fails, whatever the reason, ends nothing: reads wait, sends are
// refused, and a socket is there again by itself.
func TestUnboundUntilItSucceeds(t *testing.T) {
	for _, cause := range []error{syscall.EADDRNOTAVAIL, syscall.EMFILE, syscall.ENOMEM, ErrPortInUse} {
		t.Run(cause.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := loopback(t)
				c, to := p.V4, p.V4.LocalAddr()
				errs := []error{cause, cause, cause, cause, cause, cause}
				if errors.Is(cause, ErrPortInUse) { // each try is two: for another port too
					errs = append(errs, errs...)
				}
				tries, told := unlucky(c, errs...), rebound(c)
				if err := c.Rebind(); !errors.Is(err, cause) {
					t.Fatalf("rebind: %v", err)
				}
				if err := c.Unbound(); !errors.Is(err, cause) {
					t.Errorf("unbound for %v", err)
				}
				if err := c.Write([]byte("x"), 0, 0, to); !errors.Is(err, ErrUnbound) || errors.Is(err, net.ErrClosed) {
					t.Errorf("send: %v", err)
				}
				if n, err := c.TryRead(messages(1)); n != 0 || err != nil {
					t.Errorf("TryRead = %d, %v", n, err)
				}
				began, got := time.Now(), readOne(c)
				for range 7 {
					<-told
				}
				if err, after := c.Unbound(), time.Since(began); err != nil || after != 45*time.Second { // 1, 2, 4, 8, 15, 15
					t.Errorf("after %v: %v, tried at %v", after, err, *tries)
				}
				if after := c.LocalAddr(); after != to {
					t.Errorf("moved from %v to %v", to, after)
				}
				if err := p.V6.Write([]byte("x"), 0, 0, p.V6.LocalAddr()); err != nil {
					t.Errorf("the other family: %v", err)
				}
				if err := c.Write([]byte("after"), 0, 0, to); err != nil {
					t.Fatal(err)
				}
				if s := <-got; s != "after" {
					t.Errorf("read %q", s)
				}
			})
		})
	}
}

// Who knows that the network changed does not wait for the next try.
func TestRebindEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := loopback(t).V4
		unlucky(c, syscall.EADDRNOTAVAIL)
		if c.Rebind() == nil {
			t.Fatal("bound")
		}
		got := readOne(c)
		synctest.Wait()
		began := time.Now()
		if err := c.Rebind(); err != nil || c.Unbound() != nil {
			t.Fatalf("%v, %v", err, c.Unbound())
		}
		if err := c.Write([]byte("x"), 0, 0, c.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		if s := <-got; s != "x" || time.Since(began) > 0 {
			t.Errorf("read %q after %v", s, time.Since(began))
		}
	})
}

// A file descriptor that breaks is replaced at once, and again and again, but not
// in a loop without rest.
func TestBrokenDescriptorIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := loopback(t).V4
		told := rebound(c)
		got := readOne(c)
		c.cur.Load().Close() // not by Rebind
		<-told
		if err := c.Write([]byte("x"), 0, 0, c.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		if s := <-got; s != "x" || c.Stats().RxErrors != 1 {
			t.Errorf("read %q, %+v", s, c.Stats())
		}

		tries := 0
		c.bind = func(addr netip.AddrPort) (*socket, error) { // each new one is broken as well
			s, err := c.newSocket(addr)
			if err != nil { // another process has the port now
				return nil, err
			}
			if tries++; tries < 6 {
				s.Close()
			}
			return s, nil
		}
		began := time.Now()
		got = readOne(c)
		c.cur.Load().Close()
		for range 6 {
			<-told
		}
		if err := c.Write([]byte("y"), 0, 0, c.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		if s := <-got; s != "y" || time.Since(began) < 30*time.Second {
			t.Errorf("read %q, after 6 tries in %v", s, time.Since(began))
		}
	})
}

// Deadlines and Close reach a reader that waits for a socket.
func TestUnboundReaderCanBeWoken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := loopback(t).V4
		c.bind = func(netip.AddrPort) (*socket, error) { return nil, syscall.EADDRNOTAVAIL }
		_ = c.Rebind()
		read := func() <-chan error {
			ended := make(chan error, 1)
			go func() {
				_, err := c.Read(messages(1))
				ended <- err
			}()
			synctest.Wait()
			return ended
		}
		began, ended := time.Now(), read()
		if err := c.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != 300*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if err := c.SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		ended = read()
		c.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
}

// A reader that is woken again and again, as by packets of a relay, tries to be bound
// again all the same.
func TestUnboundReaderThatIsWokenOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := loopback(t).V4
		tries := unlucky(c, syscall.EMFILE, syscall.EMFILE, syscall.EMFILE, syscall.EMFILE)
		_ = c.Rebind()
		began, ms := time.Now(), messages(1)
		for c.Unbound() != nil && time.Since(began) < time.Hour {
			_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			if n, err := c.Read(ms); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(n, err)
			}
		}
		if took := time.Since(began); took != 15*time.Second { // after 1, 2, 4 and 8 s
			t.Errorf("bound after %v, tried at %v", took, *tries)
		}
	})
}
